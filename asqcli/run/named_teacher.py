"""A teacher that the recipe names: any network with weights, or a run, a quantized one too.

It is found and tried before any training, and kept in the run's folder as a checkpoint of its own: a run that goes on
needs nothing of the place that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from asqcli.errors import AsqError, InputError, MachineError, UsageError
from asqcli.models.names import is_factory
from asqcli.models.official import has_official, official_input
from asqcli.models.registry import require_known
from asqcli.nn.forward import forward_in_evaluation
from asqcli.nn.modes import to_evaluation
from asqcli.recipe.schema import Data, Recipe
from asqcli.run.checkpoint import Checkpoint, load_checkpoint
from asqcli.run.fingerprint import take_fingerprint
from asqcli.run.going_on import KEY
from asqcli.run.restore import find_checkpoint, restore_model, unfinished, unproven
from asqcli.run.start import start_model
from asqcli.train.progress import Progress

COLOURS = ("mean", "std")  # keys of `data` that both networks must share: they get the same images


@dataclass(frozen=True)
class NamedTeacher:
    """A network that teaches.

    Attributes:
        checkpoint: what is kept of it.
        network: in evaluation mode, on the CPU.
        origin: which network, and where its weights are from, in words.
    """

    checkpoint: Checkpoint
    network: nn.Module
    origin: str


def find_teacher(recipe: Recipe, classes: tuple[str, ...], tell: Callable[[str], None]) -> NamedTeacher | None:
    """Return the teacher that the recipe names, None where it names none.

    Args:
        classes: of the network that learns.
        tell: hears what the teacher is, and what the user should know of it.
    Raises:
        UsageError: no such network, no weights for it, or a run of a factory that the recipe does not name.
        InputError: the run or file is missing or broken, or is for other classes or images.
        MachineError: its weights cannot be had.
        UnsupportedError: it cannot be built or run.
    """
    distillation = recipe.train.distillation
    if distillation is None or distillation.teacher is None:
        return None
    name, weights = distillation.teacher, distillation.teacher_weights

    def tell_of_it(text: str) -> None:
        tell(f"teacher: {text.removeprefix('note: ')}")

    with _told_of(name):
        if (run := find_checkpoint(name)) is not None:
            if weights is not None:
                raise UsageError("it is a run, which has weights of its own", f"leave out `{KEY}_weights`")
            teacher = _of_run(run, name, {recipe.model}, tell_of_it)
        elif weights is not None and (run := find_checkpoint(weights)) is not None:
            teacher = _of_run(run, weights, {name}, tell_of_it)
            if (theirs := teacher.checkpoint.recipe.model) != name:
                raise UsageError(f"`{weights}` was trained with the model `{theirs}`")
        else:
            teacher = _of_weights(recipe, name, weights, classes, tell_of_it)
        _require_same_task(teacher, recipe, classes, tell_of_it)
    tell_of_it(teacher.origin)
    return teacher


def open_kept_teacher(path: Path, factories: Collection[str | None], hint: str) -> nn.Module:
    """Return the network of a teacher whose checkpoint is in a run's folder, in evaluation mode, on the CPU.

    Args:
        factories: that the caller names, for the network and for its teacher.
        hint: how to name another one.
    Raises:
        UsageError: it is made by a factory that the caller does not name.
        InputError, UnsupportedError: the file is broken, or what is built now is another network.
    """
    checkpoint = load_checkpoint(path)
    name = checkpoint.recipe.model
    require_named(name, factories, hint)
    return _evaluating(restore_model(checkpoint, source=str(path), factory=name))


def require_not_replaced(recipe: Recipe, folder: Path) -> None:
    """Refuse to replace the run that the network starts from, or that teaches.

    Raises:
        UsageError: the weights, the teacher or its weights are in `folder`.
    """
    taught_by = recipe.train.distillation
    teacher = (None, None) if taught_by is None else (taught_by.teacher, taught_by.teacher_weights)
    for what, source in (("weights", recipe.pretrained), *(("teacher", source) for source in teacher)):
        path = Path(source or "").resolve()
        if source is not None and folder.resolve() in (path, *path.parents):
            are = "are" if what == "weights" else "is"
            raise UsageError(
                f"the {what} `{source}` {are} in the run that `--force` would replace", "choose another `--out`"
            )


def require_named(name: str | None, factories: Collection[str | None], hint: str) -> None:
    """Refuse to import a teacher's factory that only a run's folder names.

    Raises:
        UsageError: `name` is a factory and not among those that the caller names; `hint` is how to do that.
    """
    if name is not None and is_factory(name) and name not in factories:
        raise UsageError(f"a run may not import code by itself, and the teacher is made by `{name}`", hint)


def _of_run(path: Path, source: str, factories: Collection[str], tell: Callable[[str], None]) -> NamedTeacher:
    checkpoint = load_checkpoint(path)
    name = checkpoint.recipe.model
    require_named(name, factories, f"name it yourself: `--set {KEY}={name} --set {KEY}_weights={source}`")
    for caveat in (unfinished(path, checkpoint), unproven(checkpoint, source)):
        if caveat is not None:
            tell(caveat)
    network = _evaluating(restore_model(checkpoint, source=source, factory=name))
    quantized = ", quantized" if checkpoint.specs else ""
    # Nobody goes on with its training.
    return NamedTeacher(replace(checkpoint, optimizer={}, hooks={}), network, f"{name}{quantized} ({source})")


def _of_weights(
    recipe: Recipe, name: str, weights: str | None, classes: tuple[str, ...], tell: Callable[[str], None]
) -> NamedTeacher:
    if "/" in name and ":" not in name:
        raise InputError("there is no such run")
    require_known(name)
    wanted = weights or ("factory" if is_factory(name) else "official")
    if wanted == "official" and not has_official(name):
        raise UsageError("there are no official weights of it", f"name a file or a run: `--set {KEY}_weights=FILE`")
    own = recipe.float_twin(name, wanted)
    if (official := official_input(name, wanted)) is not None:
        own = own.model_copy(update={"data": Data.model_validate({**own.data.model_dump(), **official.values})})
    start = start_model(own, len(classes), tell)
    if not start.pretrained:
        raise InputError("it starts at random, and has nothing to teach", f"`--set {KEY}_weights=FILE`, or a run")
    if start.new_head is not None:
        raise InputError(f"its weights ({start.weights}) are not for the {len(classes)} classes of the images")
    if start.caveat is not None:
        tell(start.caveat)
    answers, state = take_fingerprint(start.model, own.data), start.model.state_dict()
    progress = Progress("float", facts={"weights": start.weights, "pretrained": True})
    checkpoint = Checkpoint(own, progress, [], classes, state, {}, fingerprint=answers)
    return NamedTeacher(checkpoint, _evaluating(start.model), f"{name} ({start.weights})")


def _evaluating(network: nn.Module) -> nn.Module:
    to_evaluation(network)
    return network


def _require_same_task(
    teacher: NamedTeacher, recipe: Recipe, classes: tuple[str, ...], tell: Callable[[str], None]
) -> None:
    """Refuse a teacher of other classes or of images in other colours; tell of other sizes and names."""
    theirs, own = teacher.checkpoint.recipe.data, recipe.data
    others = [key for key in COLOURS if getattr(theirs, key) != getattr(own, key)]
    if others:
        settings = " ".join(f"--set data.{key}={list(getattr(theirs, key))}".replace(", ", ",") for key in others)
        raise InputError(f"it wants images of another {' and '.join(others)} than the network gets", f"`{settings}`")
    logits = forward_in_evaluation(teacher.network, torch.zeros(1, 3, own.image_size, own.image_size))
    if logits.shape[1] != len(classes):
        raise InputError(f"it tells {logits.shape[1]} classes apart, and the images have {len(classes)}")
    if not logits.isfinite().all():
        raise InputError("it answers with NaN or infinity", "its training diverged, or its weights are broken")
    if theirs.image_size != own.image_size:
        tell(f"it was made for images of {theirs.image_size} pixels, and gets {own.image_size}")
    if teacher.checkpoint.classes != classes:
        tell("warning: its classes have other names than those of the images")


@contextmanager
def _told_of(name: str) -> Generator[None]:
    """Let errors say that they are the teacher's."""
    try:
        yield
    except AsqError as error:
        hint = None if isinstance(error, MachineError) else error.hint  # it speaks of the network's own weights
        raise type(error)(f"the teacher `{name}`: {error.message}", hint) from error
