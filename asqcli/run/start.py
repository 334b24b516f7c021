"""The float network that a run starts from: built, and given the weights that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asqcli.artifact.file import is_artifact
from asqcli.errors import InputError, MachineError, UsageError
from asqcli.models.names import is_factory, is_timm
from asqcli.models.official import as_official, fetch_official, official_input, official_weights_meant, require_official
from asqcli.models.state import versions_in, with_versions
from asqcli.models.stored.layout import read_weights
from asqcli.models.weights import LoadReport, load_weights
from asqcli.nn.head import find_head
from asqcli.nn.survey import require_logits, survey
from asqcli.recipe.schema import Recipe
from asqcli.run.build import build_with_head
from asqcli.run.checkpoint import Checkpoint, load_checkpoint
from asqcli.run.restore import find_checkpoint, restore_model, unproven

SCALED_MEAN = 0.5  # of each channel of the images of GoogLeNet and Inception, once their input is scaled


@dataclass
class Start:
    """The float network that a run starts from.

    Attributes:
        model: float, with the weights that were asked for.
        weights: where they are from, in words.
        warm_up: does it need float training first?
        notes: what a run tells of all this, the caveat included.
        caveat: what whoever uses the weights should know of them, in words, or None.
    """

    model: nn.Module
    weights: str
    warm_up: bool
    notes: tuple[str, ...] = ()
    caveat: str | None = None


def start_model(recipe: Recipe, classes: int, tell: Callable[[str], None]) -> Start:
    """Build the float network and load its weights, as `pretrained` says.

    Args:
        tell: hears what was made of the network and of a file with several states.
    """
    wanted, about, from_file = recipe.pretrained, "", False
    if wanted == "factory":
        _require_factory(recipe.model)
    built = build_with_head(recipe, classes, tell)
    model = built.model
    if wanted == "none":
        return Start(model, "none", warm_up=True)
    if wanted == "factory":
        name = "the factory's own"
        return Start(model, name, warm_up=built.new_head is not None, notes=(f"weights: {name}",))
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
            return Start(model, f"none ({error.message})", warm_up=True, notes=(note,))
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
        from_file = official_weights_meant(recipe.model, wanted) is None
        if not from_file:
            state = as_official(recipe.model, state)
    report = load_weights(model, state, source=name, head=lambda: find_head(model, _example(recipe)), about=about)
    caveat = (_untransformed(model, recipe) or _of_other_colours(recipe)) if from_file else None
    return Start(model, name, bool(report.replaced_head), tuple(_notes(name, classes, report, caveat)), caveat)


def _require_factory(name: str) -> None:
    if not is_factory(name):
        raise UsageError(
            f"`--weights factory`: `{name}` is not a factory of yours",
            "choose official, none, a run or a file (a file of this name is `./factory`)",
        )


def _example(recipe: Recipe) -> Tensor:
    return torch.zeros(1, 3, recipe.data.image_size, recipe.data.image_size)


def _notes(name: str, classes: int, report: LoadReport, caveat: str | None) -> Iterator[str]:
    """Yield what a run tells of weights called `name`, once they are loaded."""
    if report.replaced_head:
        yield (
            f"the weights in {name} are for another number of classes: a new head for {classes} "
            f"({', '.join(report.replaced_head)})"
        )
    else:
        yield f"weights: {name}"
    if report.left_out:
        yield f"left out, as only training would run them: {', '.join(report.left_out)}"
    if caveat is not None:
        yield f"note: {caveat}"


def _untransformed(model: nn.Module, recipe: Recipe) -> str | None:
    """Return in words that torchvision would scale a network's input if its own weights had been the start.

    A file does not tell whether its network did. Here it does not, unless the images come as that would make them.
    """
    if is_factory(recipe.model) or getattr(model, "transform_input", True) or set(recipe.data.mean) == {SCALED_MEAN}:
        return None
    return (
        f"`{recipe.model}` is built with `transform_input=False`; weights that were trained with True, as those made "
        "from torchvision's own, want --set data.mean=[0.5,0.5,0.5] --set data.std=[0.5,0.5,0.5]"
    )


def _of_other_colours(recipe: Recipe) -> str | None:
    """Return in words that timm's own weights of the network want images of another mean and deviation."""
    wanted = official_input(recipe.model, "official") if is_timm(recipe.model) else None
    if wanted is None or all(list(getattr(recipe.data, key)) == wanted.values[key] for key in ("mean", "std")):
        return None
    settings = " ".join(f"--set data.{key}={wanted.values[key]}".replace(", ", ",") for key in ("mean", "std"))
    return f"weights that were made from timm's own of `{recipe.model}` want {settings}"


def _float_state(checkpoint: Checkpoint, model: nn.Module) -> dict[str, Any]:
    """Return the float parameters of a run, its quantizers left out."""
    own = model.state_dict()
    return with_versions({n: t for n, t in checkpoint.model.items() if n in own}, versions_in(checkpoint.model))


def load_float_model(recipe: Recipe, classes: int, tell: Callable[[str], None]) -> nn.Module:
    """Return the float network with exactly the weights that `pretrained` names, to be measured as it is.

    Args:
        tell: as for `start_model`; hears of the weights' caveat, too.
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
    if start.caveat is not None:
        tell(f"note: {start.caveat}")
    require_logits(survey(start.model, _example(recipe)).output, classes, name=recipe.model)
    return start.model
