"""What a phase needs to go on, in one safetensors file: parameters, the optimizer's state, and a JSON document.

No pickle: a checkpoint from a stranger is safe to open. No generator states: see `asqcli.seeds`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from asqcli.errors import InputError, first_line, printable
from asqcli.files import check_readable, what_is_wrong, write_atomically
from asqcli.models.state import StateParts
from asqcli.quant.spec import LayerSpec
from asqcli.recipe.schema import Recipe
from asqcli.run.fingerprint import Fingerprint, fingerprint_among, fingerprint_tensors, with_prefix
from asqcli.strict import Strict
from asqcli.train.optimizer import KEPT, UPDATES
from asqcli.train.progress import Progress

FORMAT = 1
DOCUMENT = "asq_checkpoint"
MODEL = "model/"
HOOK = "companion/"  # as step hooks were called when the format was made
# Kinds of the optimizer's state: SGD's, then AdamW's.
OPTIMIZER = {
    "momentum_buffer": "momentum/",
    "exp_avg": "optimizer/exp_avg/",
    "exp_avg_sq": "optimizer/exp_avg_sq/",
    UPDATES: f"optimizer/{UPDATES}/",
}


@dataclass
class Checkpoint:
    """A network in the middle of its training, or at its end.

    Attributes:
        recipe: as resolved.
        specs: of the quantized layers; empty while the network is float.
        classes: names, in label order.
        model: the state dict, with the versions of its modules.
        optimizer: `optimizer_state` of the optimizer.
        hooks: the states of the step hooks, by their names.
        fingerprint: the network's answers to fixed images; None in files from before there were any.
    """

    recipe: Recipe
    progress: Progress
    specs: list[LayerSpec]
    classes: tuple[str, ...]
    model: dict[str, Tensor]
    optimizer: dict[str, dict[str, Tensor]]
    hooks: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    fingerprint: Fingerprint | None = None


Count = Annotated[int, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]


UNKNOWN: Any = None  # a value of every type, and so allowed nowhere else


class _KnownImages(Strict):
    """`asqcli.run.images.KnownImages`."""

    counts: list[Count]
    labels: str


class _Facts(Strict):
    """`Progress.facts`; None stands for what is not known yet, and never in a file."""

    weights: str
    images: _KnownImages = UNKNOWN
    pretrained: bool = UNKNOWN
    warmup_epochs: Count = UNKNOWN
    finetune_epochs: Count = UNKNOWN
    new_head: str = UNKNOWN
    float_trained: bool = UNKNOWN
    float_top1: Percent = UNKNOWN
    float_of_quantized: bool = UNKNOWN
    calibrated_top1: Percent = UNKNOWN
    teacher: str = UNKNOWN
    teacher_top1: Percent = UNKNOWN
    best_warmup: Percent = UNKNOWN
    best_finetune: Percent = UNKNOWN
    best_float: Percent = UNKNOWN
    best_qat: Percent = UNKNOWN
    warnings: list[str] = UNKNOWN


class _Progress(Strict):
    phase: Literal["warmup", "finetune", "float", "qat"]
    epoch: Count
    step: Count
    loss_sum: float
    correct: Count
    images: Count
    metrics_lines: Count
    facts: _Facts


class _CalibratedLayer(LayerSpec):
    signed: bool  # pyright: ignore[reportGeneralTypeIssues]  # which pydantic lets a subclass require


class StateParameters(Strict):
    """What a state dict holds besides tensors; older files have neither."""

    versions: dict[str, int] = Field(default_factory=dict)
    extra: dict[str, Any] = Field(default_factory=dict)


class _Document(StateParameters):
    """What must hold of a checkpoint's JSON before anything is built from it: it may come from a stranger."""

    format: Literal[1]
    recipe: Recipe
    progress: _Progress
    plans: list[_CalibratedLayer]  # as specs were called when the format was made
    classes: Annotated[list[str], Field(min_length=1)]
    companions: list[str]  # names of step hooks
    digest: str

    @model_validator(mode="after")
    def _fits_together(self):
        phase, facts = self.progress.phase, self.progress.facts
        if (phase == "float") == self.recipe.quantized:
            raise ValueError(f"the recipe has no phase {phase}")
        if (phase == "qat") != bool(self.plans):
            raise ValueError(f"{len(self.plans)} layers are quantized in the phase {phase}")
        if phase == "qat" and not {"float_top1", "calibrated_top1"} <= facts.model_fields_set:
            raise ValueError("`progress.facts` lacks float_top1 or calibrated_top1")
        if phase == "finetune" and (self.recipe.train.finetune is None or "new_head" not in facts.model_fields_set):
            raise ValueError("the phase finetune lacks `train.finetune`, or `progress.facts` new_head")
        if self.progress.images < self.progress.step:
            raise ValueError("`progress` has more steps than images")
        return self


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically.

    Raises:
        MachineError: it cannot be written; what stood there before stays.
    """
    parts = StateParts.of(checkpoint.model)
    document: dict[str, Any] = {
        "format": FORMAT,
        "recipe": checkpoint.recipe.model_dump(mode="json"),
        "progress": asdict(checkpoint.progress),
        "plans": [spec.model_dump(mode="json") for spec in checkpoint.specs],
        "classes": list(checkpoint.classes),
        "companions": list(checkpoint.hooks),
        "versions": parts.versions,
        "extra": parts.extra,
    }
    tensors = {MODEL + n: t for n, t in parts.tensors.items()}
    for kind, state in checkpoint.optimizer.items():
        tensors |= {OPTIMIZER[kind] + n: t for n, t in state.items()}
    for hook, state in checkpoint.hooks.items():
        tensors |= {f"{HOOK}{hook}/{n}": t for n, t in state.items()}
    tensors |= fingerprint_tensors(checkpoint.fingerprint)
    document["digest"] = _digest(tensors)
    save_weights(path, tensors, {DOCUMENT: json.dumps(document)})


def save_weights(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically.

    Raises:
        MachineError: it cannot be written; what stood there before stays.
    """
    # Without copies where none are needed: RegNet-Y-128GF's checkpoint has 5 GiB.
    plain, seen = {}, set()
    for name, tensor in tensors.items():
        plain[name] = tensor.detach().cpu().contiguous()
        memory = plain[name].untyped_storage().data_ptr()
        if memory in seen:  # a module used under two names, which safetensors refuses
            plain[name] = plain[name].clone()
        seen.add(memory)

    def write(part: Path) -> None:
        part.touch()
        mode = part.stat().st_mode
        try:
            save_file(plain, part, metadata)
            part.chmod(mode)  # safetensors puts a file of its own there, which nobody else may read
        except SafetensorError as error:
            if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error

    write_atomically(path, write)


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
        InputError: missing, corrupt, of a format that this version does not know, or not consistent; says why.
    """
    if not path.is_file():
        raise InputError(f"no checkpoint `{path}`")
    check_readable(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {})[DOCUMENT]
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        document = json.loads(text)
        version = document.get("format") if isinstance(document, dict) else None
        if version != FORMAT:
            raise InputError(f"checkpoint `{path}` has format {reprlib.repr(version)}, this version reads {FORMAT}")
        checked = _Document.model_validate_json(text)  # from JSON once more: that limits how deep it is nested
        if _digest(tensors) != checked.digest:
            raise InputError(f"checkpoint `{path}` is corrupt: its tensors are not those that were written")
    except ValidationError as error:
        raise InputError(f"checkpoint `{path}` is corrupt: {what_is_wrong(error)}") from error
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:  # RecursionError too
        raise InputError(f"checkpoint `{path}` is corrupt: {printable(first_line(error))}") from error
    return Checkpoint(
        recipe=checked.recipe,
        progress=Progress(**checked.progress.model_dump(exclude_unset=True)),
        specs=[LayerSpec(**dict(spec)) for spec in checked.plans],
        classes=tuple(checked.classes),
        model=StateParts(with_prefix(tensors, MODEL), checked.extra, checked.versions).joined(),
        optimizer={kind: state for kind, p in OPTIMIZER.items() if (state := with_prefix(tensors, p))},
        hooks={n: with_prefix(tensors, f"{HOOK}{n}/") for n in checked.companions},
        fingerprint=fingerprint_among(tensors, path),
    )


def require_fit(checkpoint: Checkpoint, model: nn.Module, hooks: dict[str, dict[str, Tensor]], *, source: Path) -> None:
    """Find out whether training can go on from a checkpoint.

    Args:
        hooks: the states of the step hooks, as they are at the start of a phase.
        source: named in the error.
    Raises:
        InputError: its optimizer's state or its step hooks are not those of the network and its recipe.
    """
    parameters = dict(model.named_parameters())
    updates = torch.tensor(0.0)
    head = checkpoint.progress.facts.get("new_head")
    if head is not None and not any(name.startswith(f"{head}.") for name in parameters):
        raise InputError(f"the network has no layer `{printable(head)}`, which `{source}` calls its head")
    optimizer = checkpoint.recipe.train.section(checkpoint.progress.phase).optimizer
    if checkpoint.optimizer and (
        checkpoint.optimizer.keys() != KEPT[optimizer] or len({frozenset(s) for s in checkpoint.optimizer.values()}) > 1
    ):
        raise InputError(f"the optimizer's state in `{source}` is not that of {optimizer}, which its recipe names")
    for kind, state in checkpoint.optimizer.items():
        if not all(
            n in parameters and _is_like(t, updates if kind == UPDATES else parameters[n]) for n, t in state.items()
        ):
            raise InputError(f"the {kind} of the optimizer in `{source}` is not that of the network")
    if sorted(hooks) != sorted(checkpoint.hooks):
        names = ", ".join(map(printable, checkpoint.hooks)) or "none"
        expected = ", ".join(hooks) or "none"
        raise InputError(f"`{source}` has the step hooks {names}, and its recipe {expected}")
    for hook, state in hooks.items():
        stored = checkpoint.hooks[hook]
        if stored.keys() != state.keys() or not all(_is_like(stored[n], state[n]) for n in state):
            raise InputError(f"the state of the step hook {hook} in `{source}` is not that of the network")


def _is_like(tensor: Tensor, other: Tensor) -> bool:
    return (tensor.shape, tensor.dtype) == (other.shape, other.dtype)


def _digest(tensors: dict[str, Tensor]) -> str:
    """Return a checksum of names and values; a flipped bit in a weight would go unseen."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
