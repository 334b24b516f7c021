"""The float network that a run starts from: built, and given the weights that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asqcli.artifact.file import is_artifact
from asqcli.errors import InputError, MachineError, UsageError, some_of
from asqcli.models.input_transform import missing_transform
from asqcli.models.names import is_factory, is_timm
from asqcli.models.official import (
    as_official,
    fetch_official,
    has_official,
    official_class_names,
    official_input,
    official_weights_meant,
    require_official,
)
from asqcli.models.state import versions_in, with_versions
from asqcli.models.stored.layout import read_weights
from asqcli.models.weights import LoadReport, load_weights
from asqcli.nn.adapters import TrainedAdapters, trained_adapters
from asqcli.nn.head import find_head
from asqcli.nn.survey import require_logits, survey
from asqcli.recipe.schema import Recipe
from asqcli.run.build import Built, build_network, build_with_head
from asqcli.run.checkpoint import Checkpoint, load_checkpoint
from asqcli.run.folder import FLOAT_TEACHER
from asqcli.run.restore import find_checkpoint, restore_model, unproven
from asqcli.run.teacher import open_teacher


@dataclass
class Start:
    """The float network that a run starts from.

    Attributes:
        model: float, with the weights that were asked for.
        weights: where they are from, in words.
        pretrained: are there weights? False where all are random.
        new_head: the layer that is random, for another number of classes, if any.
        notes: what a run tells of all this, the caveat included.
        caveat: what whoever uses the weights should know of them, in words, or None.
        quantized: are the weights those of a quantized network?
        adapters: of that network.
        original: the float network that it began with, in evaluation mode, where its run kept that.
        classes: the names of the classes that the weights are for, where whoever made them says.
        head_classes: how many these are, where the network was built for another number.
    """

    model: nn.Module
    weights: str
    pretrained: bool
    new_head: str | None = None
    notes: tuple[str, ...] = ()
    caveat: str | None = None
    quantized: bool = False
    adapters: TrainedAdapters = field(default_factory=TrainedAdapters)
    original: nn.Module | None = None
    classes: tuple[str, ...] | None = None
    head_classes: int | None = None

    @property
    def needs_training(self) -> bool:
        """Does it need float training first?"""
        return not self.pretrained or self.new_head is not None


def start_model(recipe: Recipe, classes: int, tell: Callable[[str], None]) -> Start:
    """Build the float network and load its weights, as `pretrained` says.

    Args:
        tell: hears what was made of the network and of a file with several states.
    """
    wanted, about, from_file = recipe.pretrained, "", False
    adapters: TrainedAdapters = {}
    quantized = False
    original: nn.Module | None = None
    names: tuple[str, ...] | None = None
    if wanted == "factory":
        _require_factory(recipe.model)
    built = build_with_head(recipe, classes, tell)
    model = built.model
    if wanted == "none":
        return Start(model, "none", pretrained=False)
    if wanted == "factory":
        return _from_factory(recipe, classes, built)
    if wanted in ("auto", "official"):
        if wanted == "official":
            require_official(recipe.model)
        try:
            state, name = fetch_official(recipe.model)
        except MachineError as error:
            if wanted == "official":
                raise MachineError(error.message, "give a file with --weights, or --weights none") from error
            own = "; if the factory loads its own, say `--weights factory`" if is_factory(recipe.model) else ""
            warning = "warning: " if has_official(recipe.model) else ""  # next time they may be had
            note = f"{warning}no pretrained weights: {error.message}{own}"
            return Start(model, f"none ({error.message})", pretrained=False, notes=(note,))
        names = official_class_names(recipe.model)
    elif (checkpoint_path := find_checkpoint(wanted)) is not None:
        name, checkpoint = wanted, load_checkpoint(checkpoint_path)
        names = checkpoint.classes
        if checkpoint.recipe.model == recipe.model:  # else it is another network that the caller wants
            adapters = trained_adapters(restore_model(checkpoint, source=wanted, factory=recipe.model))
            if (caveat := unproven(checkpoint, wanted)) is not None:
                tell(f"note: {caveat}")
        state = _float_state(checkpoint, model)
        quantized = bool(checkpoint.specs)
        if quantized:
            original = _original(checkpoint_path, checkpoint, recipe)
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
            state, names = as_official(recipe.model, state), official_class_names(recipe.model)
    report = load_weights(model, state, source=name, head=lambda: find_head(model, _example(recipe)), about=about)
    caveat = None
    if from_file:
        caveat = missing_transform(model, recipe.model, recipe.data.mean) or _of_other_colours(recipe)
    new_head = report.replaced_head[0].rpartition(".")[0] if report.replaced_head else None
    if new_head is not None:  # what it began with has other classes
        original = None
    notes = list(_notes(name, classes, report, caveat))
    if quantized:
        notes += _notes_on_quantized(recipe, name, original, new_head)
    return Start(
        model, name, True, new_head, tuple(notes), caveat, quantized, adapters, original, names, report.head_classes
    )


def _from_factory(recipe: Recipe, classes: int, built: Built) -> Start:
    """Return the start of a network with the weights that its factory loads, which may be all but the head's.

    What another seed would draw otherwise is random, and was not loaded.
    """
    other = dict(build_network(_reseeded(recipe), classes).named_parameters())
    own = dict(built.model.named_parameters())
    drawn = [name for name, p in own.items() if name not in other or not torch.equal(p, other[name])]
    model, name = built.model, "the factory's own"
    if not drawn:
        return Start(model, name, pretrained=True, notes=(f"weights: {name}",))
    head = find_head(model, _example(recipe))
    beside = [name for name in drawn if name.rpartition(".")[0] != head]
    if head is None or 2 * sum(own[n].numel() for n in beside) > sum(p.numel() for p in own.values()):
        note = f"warning: `{recipe.model}` starts at random, it loads no weights or few ({some_of(drawn)})"
        return Start(model, "none (the factory loads none, or few)", pretrained=False, notes=(note,))
    notes = [f"weights: {name}, but for a head that starts at random ({head})"]
    if beside:
        notes.append(f"warning: these start at random, too: {some_of(beside)}")
    return Start(model, name, pretrained=True, new_head=head, notes=tuple(notes))


def _reseeded(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": recipe.train.seed ^ 1})})


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


def _original(path: Path, checkpoint: Checkpoint, recipe: Recipe) -> nn.Module | None:
    """Return the float network that a quantized run began with, where it kept that beside its checkpoint in `path`."""
    kept = path.with_name(FLOAT_TEACHER)
    if not recipe.quantized or checkpoint.recipe.model != recipe.model or not kept.is_file():
        return None
    return open_teacher(kept, checkpoint.recipe, len(checkpoint.classes))


def _notes_on_quantized(recipe: Recipe, name: str, original: nn.Module | None, new_head: str | None) -> Iterator[str]:
    """Yield what a run tells of weights that are those of a quantized network."""
    anew = ", whose steps and thresholds are fitted anew" if recipe.quantized else ""
    yield f"`{name}` is quantized: its weights go on without its quantizers{anew}"
    distillation = recipe.train.distillation
    if new_head is not None:  # it is fine-tuned, and what comes of it is the float network
        return
    if original is not None:
        yield f"the float network of this run is that which `{name}` began with, and kept"
    elif not recipe.data.labels:
        yield (
            f"warning: the images are labelled by `{name}` without its quantizers: it kept no float network, as runs "
            "without labels do"
        )
    elif distillation is not None and distillation.teacher is None:
        yield (
            f"warning: the teacher is `{name}` without its quantizers; name a better one, such as the float run that "
            "it began with: `--set train.distillation.teacher=RUN`"
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
    if start.needs_training and recipe.pretrained != "none":
        raise InputError(
            f"the weights of `{recipe.pretrained}` are not for the {classes} classes of `{recipe.data.name}`",
            "name their own data with --data; or, where these are some of their classes, all of them with --classes "
            "FILE, in the order of the logits",
        )
    if start.caveat is not None:
        tell(f"note: {start.caveat}")
    require_logits(survey(start.model, _example(recipe)).output, classes, name=recipe.model)
    return start.model
