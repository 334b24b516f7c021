"""A run folder or checkpoint to the network that it holds."""

from __future__ import annotations

import textwrap
from pathlib import Path

import torch
from torch import nn

from asqcli.errors import AsqError, InputError, UsageError, printable, ran_out_of_memory
from asqcli.models.names import is_factory
from asqcli.models.state import adopt_versions, load_state
from asqcli.nn.prepare import prepare
from asqcli.quant.spec import LayerSpec
from asqcli.run.build import build_network
from asqcli.run.checkpoint import Checkpoint, is_checkpoint
from asqcli.run.fingerprint import require_same_network
from asqcli.run.folder import LAST, RunFolder

LONGEST_REASON = 300  # characters: PyTorch lists every parameter that is missing


def find_checkpoint(target: str) -> Path | None:
    """Return the checkpoint file behind a run folder or a checkpoint's own path; None when it is neither."""
    path = Path(target)
    if path.is_dir():
        return RunFolder.open(path).checkpoint(LAST)
    return path if path.is_file() and is_checkpoint(path) else None


def unproven(checkpoint: Checkpoint, source: str) -> str | None:
    """Return in words that a checkpoint holds no answers to compare with, None where it does."""
    if checkpoint.fingerprint is not None:
        return None
    return f"`{source}` was made before asq kept a network's answers: that it is opened as it was trained is not proven"


def unfinished(path: Path, checkpoint: Checkpoint) -> str | None:
    """Return in words where the run around a checkpoint's file stopped, None where it is finished or there is none."""
    run, progress = RunFolder.around(path), checkpoint.progress
    if run is None or run.finished:
        return None
    return (
        f"the run `{run.path}` is not finished: it stands in epoch {progress.epoch + 1} of the {progress.phase} phase"
    )


def restore_model(checkpoint: Checkpoint, *, source: str, factory: str | None = None) -> nn.Module:
    """Return the network of a checkpoint, with its parameters, on the CPU.

    Args:
        source: named in errors.
        factory: the `module:factory` that the caller names. A run folder may come from a stranger, so a factory that
            stands in it is never imported by itself.
    Raises:
        UsageError: the run was trained with a factory that the caller does not name.
        UnsupportedError: the factory or its network raises, or builds another network than the one that was saved.
        InputError: the model is unknown, the parameters do not fit, or it answers otherwise than when it was saved.
    """
    name = checkpoint.recipe.model
    require_factory_named(name, factory, source)
    try:
        model = build_network(checkpoint.recipe, len(checkpoint.classes))
    except UsageError as error:
        if is_factory(name):  # which the caller has named, too
            raise
        raise InputError(f"`{source}` holds no network that is known here: {printable(error.message)}") from error
    try:
        adopt_versions(model, checkpoint.model)
        if checkpoint.specs:
            _require_layers(model, checkpoint.specs)
            size = checkpoint.recipe.data.image_size
            prepare(model, checkpoint.specs, torch.zeros(1, 3, size, size))
        load_state(model, checkpoint.model)
    except AsqError:
        raise
    except Exception as error:  # there is no common type for what loading, its network's own too, can raise
        if ran_out_of_memory(error):
            raise
        reason = printable(textwrap.shorten(str(error), LONGEST_REASON, placeholder=" .."))
        raise InputError(f"the checkpoint in `{source}` does not fit `{name}`: {reason}") from error
    require_same_network(model, checkpoint.fingerprint, checkpoint.recipe.data, name=name, source=source)
    return model


def _require_layers(model: nn.Module, specs: list[LayerSpec]) -> None:
    for spec in specs:
        layer = model.get_submodule(spec.name)
        if not isinstance(layer, nn.Linear if spec.kind == "linear" else nn.Conv2d):
            raise ValueError(f"layer {spec.name} is a {type(layer).__name__}, and was quantized as {spec.kind}")


def require_factory_named(name: str, factory: str | None, source: str) -> None:
    """Refuse to import a factory that only a run folder names; other models are ours to build.

    Raises:
        UsageError: the caller named another model, or none where it is a factory.
    """
    if factory not in (None, name):
        raise UsageError(f"`{source}` was trained with the model `{name}`, not `{factory}`")
    if is_factory(name) and factory is None:
        raise UsageError(
            f"`{source}` was trained with the model `{name}`, which is code; a run may not import it by itself",
            f"name it yourself: `asq eval {name} --weights {source}`, `asq quantize {name} --resume {source}`, or "
            f"`--model {name}` with `asq export` and `asq infer`",
        )
