"""The float network that a run starts from: built, and given the weights that were asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from asqcli.artifact.file import is_artifact
from asqcli.errors import InputError, MachineError, UsageError
from asqcli.models.names import is_factory
from asqcli.models.state import versions_in, with_versions
from asqcli.models.stored.layout import read_weights
from asqcli.models.weights import fetch_official, load_weights, require_official
from asqcli.nn.head import find_head
from asqcli.nn.survey import require_logits, survey
from asqcli.recipe.schema import Recipe
from asqcli.run.build import build_with_head
from asqcli.run.checkpoint import Checkpoint, load_checkpoint
from asqcli.run.restore import find_checkpoint, restore_model, unproven


@dataclass
class Start:
    """The float network that a run starts from.

    Attributes:
        model: float, with the weights that were asked for.
        weights: where they are from, in words.
        warm_up: does it need float training first?
        note: what a run tells of all this.
    """

    model: nn.Module
    weights: str
    warm_up: bool
    note: str | None = None


def start_model(recipe: Recipe, classes: int, tell: Callable[[str], None]) -> Start:
    """Build the float network and load its weights, as `pretrained` says.

    Args:
        tell: hears what was made of the network and of a file with several states.
    """
    wanted = recipe.pretrained
    if wanted == "factory":
        _require_factory(recipe.model)
    built = build_with_head(recipe, classes, tell)
    model = built.model
    if wanted == "none":
        return Start(model, "none", warm_up=True)
    if wanted == "factory":
        return Start(model, "the factory's own", warm_up=built.new_head is not None, note="weights: the factory's own")
    about = ""
    if wanted in ("auto", "official"):
        if wanted == "official":
            require_official(recipe.model)
        try:
            state, name = fetch_official(recipe.model)
        except MachineError as error:
            if wanted == "official":
                raise MachineError(error.message, "give a file with --weights, or --weights none") from error
            own = "; if the factory loads its own, say `--weights factory`" if is_factory(recipe.model) else ""
            note = f"no pretrained weights: {error.message}{own}"
            return Start(model, f"none ({error.message})", warm_up=True, note=note)
    elif (checkpoint_path := find_checkpoint(wanted)) is not None:
        name, checkpoint = wanted, load_checkpoint(checkpoint_path)
        if checkpoint.recipe.model == recipe.model:  # else it is another network that the caller wants
            restore_model(checkpoint, source=wanted, factory=recipe.model)
            if (caveat := unproven(checkpoint, wanted)) is not None:
                tell(f"note: {caveat}")
        state = _float_state(checkpoint, model)
    elif is_artifact(Path(wanted)):
        raise InputError(
            f"`{wanted}` is an exported network, which holds no float weights",
            "name the run that it was exported from, or measure it with `asq eval FILE.asq`",
        )
    else:
        stored = read_weights(Path(wanted), model, tell)
        state, about, name = stored.state, stored.about, wanted
    report = load_weights(model, state, source=name, head=lambda: find_head(model, _example(recipe)), about=about)
    if not report.replaced_head:
        return Start(model, name, warm_up=False, note=f"weights: {name}")
    note = (
        f"the weights in {name} are for another number of classes: a new head for {classes} "
        f"({', '.join(report.replaced_head)})"
    )
    return Start(model, name, warm_up=True, note=note)


def _require_factory(name: str) -> None:
    if not is_factory(name):
        raise UsageError(
            f"`--weights factory`: `{name}` is not a factory of yours",
            "choose official, none, a run or a file (a file of this name is `./factory`)",
        )


def _example(recipe: Recipe) -> Tensor:
    return torch.zeros(1, 3, recipe.data.image_size, recipe.data.image_size)


def _float_state(checkpoint: Checkpoint, model: nn.Module) -> dict:
    """Return the float parameters of a run, its quantizers left out."""
    own = model.state_dict()
    return with_versions({n: t for n, t in checkpoint.model.items() if n in own}, versions_in(checkpoint.model))


def load_float_model(recipe: Recipe, classes: int, tell: Callable[[str], None]) -> nn.Module:
    """Return the float network with exactly the weights that `pretrained` names, to be measured as it is.

    Args:
        tell: as for `start_model`.
    Raises:
        MachineError: the official weights cannot be had.
        InputError: the weights do not fit, another number of classes included.
        UnsupportedError: the network cannot be built or run, or returns something else than logits.
    """
    start = start_model(recipe, classes, tell)
    if start.warm_up and recipe.pretrained != "none":
        raise InputError(
            f"the weights of `{recipe.pretrained}` are not for the {classes} classes of `{recipe.data.name}`",
            "name their own data with --data",
        )
    require_logits(survey(start.model, _example(recipe)).output, classes, name=recipe.model)
    return start.model
