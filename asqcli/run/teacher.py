"""The float network as it was before quantization, kept to teach its quantized twin."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from asqcli.errors import InputError, first_line, printable
from asqcli.models.state import StateParts
from asqcli.models.stored.file import read_file
from asqcli.models.weights import load_weights
from asqcli.nn.modes import to_evaluation
from asqcli.recipe.schema import Recipe, Train
from asqcli.run.build import build_network
from asqcli.run.checkpoint import StateParameters, save_weights
from asqcli.run.fingerprint import (
    PREFIX,
    Fingerprint,
    fingerprint_among,
    fingerprint_tensors,
    require_same_network,
)
from asqcli.train.objective import Objective

STATE = "asq_state"


def save_teacher(path: Path, model: nn.Module, fingerprint: Fingerprint | None) -> None:
    """Write the state of a float network and its answers.

    Raises:
        MachineError: it cannot be written.
    """
    parts = StateParts.of(model.state_dict())
    tensors = {**parts.tensors, **fingerprint_tensors(fingerprint)}
    save_weights(path, tensors, {STATE: json.dumps({"versions": parts.versions, "extra": parts.extra})})


def load_teacher(path: Path, model: nn.Module) -> Fingerprint | None:
    """Bring the float `model` to the state that `save_teacher` wrote; return what it answered then, if that is known.

    Raises:
        InputError: missing, corrupt, or of another network.
    """
    tensors = read_file(path)
    try:
        with safe_open(path, "pt") as file:
            # Runs of earlier versions kept tensors alone.
            stored = StateParameters.model_validate_json((file.metadata() or {}).get(STATE, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"the teacher in `{path}` is corrupt: {printable(first_line(error))}") from error
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    state = StateParts(own, stored.extra, stored.versions).joined()
    load_weights(model, state, source=str(path))
    return fingerprint_among(tensors, path)


def open_teacher(path: Path, recipe: Recipe, classes: int) -> nn.Module:
    """Return the float network that `save_teacher` kept, in evaluation mode, on the CPU.

    Raises:
        InputError, UnsupportedError: the file is broken, or what is built now is another network.
    """
    teacher = build_network(recipe, classes)
    require_same_network(teacher, load_teacher(path, teacher), recipe.data, name=recipe.model, source=str(path))
    to_evaluation(teacher)
    return teacher


def objective_of(train: Train, teacher: nn.Module | None) -> Objective:
    """Return the loss of quantized training.

    Args:
        teacher: in evaluation mode; None where nothing is distilled.
    """
    if train.distillation is None:
        return Objective(label_smoothing=train.label_smoothing)
    share = train.distillation.model_dump(include={"weight", "temperature"})
    return Objective(label_smoothing=train.label_smoothing, teacher=teacher, **share)
