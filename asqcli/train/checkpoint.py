"""What a phase needs to go on, in one safetensors file: parameters, momentum, and a JSON document.

No pickle: a checkpoint from a stranger is safe to open. No generator states: see `asqcli.seeds`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from asqcli.errors import InputError
from asqcli.files import check_readable, write_atomically
from asqcli.nn.prepare import LayerPlan
from asqcli.recipe.schema import Recipe

FORMAT = 1
DOCUMENT = "asq_checkpoint"
MODEL, MOMENTUM, COMPANION = "model/", "momentum/", "companion/"


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        phase: warmup, float or qat.
        epoch, step: the next step to take; step counts within the epoch.
        loss_sum, correct, images: of this epoch's steps so far.
        metrics_lines: lines of metrics.jsonl that belong to this state.
        facts: results of what came before, such as float_top1.
    """

    phase: str
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    metrics_lines: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Checkpoint:
    """A network in the middle of its training, or at its end.

    Attributes:
        recipe: as resolved.
        plans: of the quantized layers; empty while the network is float.
        classes: names, in label order.
        model: the state dict.
        momentum: SGD's buffers by parameter name.
        companions: the states of what goes beside the optimizer, by its name.
    """

    recipe: Recipe
    progress: Progress
    plans: list[LayerPlan]
    classes: tuple[str, ...]
    model: dict[str, Tensor]
    momentum: dict[str, Tensor]
    companions: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically.

    Raises:
        MachineError: it cannot be written; what stood there before stays.
    """
    document = {
        "format": FORMAT,
        "recipe": checkpoint.recipe.model_dump(mode="json"),
        "progress": asdict(checkpoint.progress),
        "plans": [asdict(plan) for plan in checkpoint.plans],
        "classes": list(checkpoint.classes),
        "companions": list(checkpoint.companions),
    }
    tensors = {MODEL + n: t for n, t in checkpoint.model.items()}
    tensors |= {MOMENTUM + n: t for n, t in checkpoint.momentum.items()}
    for companion, state in checkpoint.companions.items():
        tensors |= {f"{COMPANION}{companion}/{n}": t for n, t in state.items()}
    document["digest"] = _digest(tensors)
    save_weights(path, tensors, {DOCUMENT: json.dumps(document)})


def save_weights(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically.

    Raises:
        MachineError: it cannot be written; what stood there before stays.
    """
    # Modules used under two names share tensors, which safetensors refuses: clone.
    tensors = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
    write_atomically(path, save(tensors, metadata))


def is_checkpoint(path: Path) -> bool:
    """Is the file a checkpoint of ours? Other safetensors files are plain weights.

    Raises:
        InputError: it cannot be opened.
    """
    check_readable(path)
    try:
        with safe_open(path, "pt") as file:
            return DOCUMENT in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        InputError: missing, corrupt, or of a format that this version does not know.
    """
    if not path.is_file():
        raise InputError(f"no checkpoint `{path}`")
    check_readable(path)
    try:
        with safe_open(path, "pt") as file:
            document = json.loads((file.metadata() or {})[DOCUMENT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if document["format"] != FORMAT:
            raise InputError(f"checkpoint `{path}` has format {document['format']}, this version reads {FORMAT}")
        if _digest(tensors) != document["digest"]:
            raise InputError(f"checkpoint `{path}` is corrupt: its tensors are not those that were written")
        return Checkpoint(
            recipe=Recipe.model_validate(document["recipe"]),
            progress=Progress(**document["progress"]),
            plans=[LayerPlan(**plan) for plan in document["plans"]],
            classes=tuple(document["classes"]),
            model=_with_prefix(tensors, MODEL),
            momentum=_with_prefix(tensors, MOMENTUM),
            companions={n: _with_prefix(tensors, f"{COMPANION}{n}/") for n in document["companions"]},
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint `{path}` is corrupt: {error}") from error


def _digest(tensors: dict[str, Tensor]) -> str:
    """Return a checksum of names and values; a flipped bit in a weight would go unseen."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def momentum_by_name(model: nn.Module, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """Return SGD's momentum buffers under the names of their parameters."""
    buffers = {name: optimizer.state.get(p, {}).get("momentum_buffer") for name, p in model.named_parameters()}
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def restore_momentum(model: nn.Module, optimizer: torch.optim.SGD, momentum: dict[str, Tensor]) -> None:
    """Give SGD the buffers that `momentum_by_name` returned."""
    for name, parameter in model.named_parameters():
        if name in momentum:
            optimizer.state[parameter]["momentum_buffer"] = momentum[name].to(parameter.device)
