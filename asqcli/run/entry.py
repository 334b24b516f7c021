"""Ways into a run: from a recipe, from a checkpoint, and for a look at what it would be.

Everything that can be wrong with data, weights and network is found here, before a run's folder is made.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asqcli.data.class_names import read_class_names
from asqcli.data.layout import NAMES
from asqcli.data.preprocessing import Preprocessing
from asqcli.data.samples import DataSet
from asqcli.data.source import open_data
from asqcli.data.splits import Split, batches_per_pass
from asqcli.errors import InputError, Interruption, LostProcessError, UsageError
from asqcli.models.names import name_for_files
from asqcli.models.registry import require_known
from asqcli.nn.survey import require_logits, require_quantizable, survey
from asqcli.quant.spec import LayerSpec
from asqcli.recipe.layers import resolve_layers
from asqcli.recipe.schema import Recipe, scheme_of
from asqcli.run.baseline import baseline_in_words, baseline_phase
from asqcli.run.checkpoint import Checkpoint, load_checkpoint
from asqcli.run.compiled import missing_in_words
from asqcli.run.context import RunContext, StopRequested, environment
from asqcli.run.folder import LAST, TEACHER, RunFolder
from asqcli.run.going_on import factory_that_teaches, how_to_go_on
from asqcli.run.images import require_same_images
from asqcli.run.named_teacher import (
    NamedTeacher,
    find_teacher,
    open_kept_teacher,
    require_named,
    require_not_replaced,
)
from asqcli.run.phases import Run
from asqcli.run.precision import precision_in_words
from asqcli.run.preflight import require_trainable
from asqcli.run.restore import require_factory_named, restore_model, unproven
from asqcli.run.start import Start, start_model
from asqcli.run.together import create_folder, require_alike, require_enough_images
from asqcli.run.trial_export import findings
from asqcli.run.unlabelled import start_unlabelled
from asqcli.seeds import Stream
from asqcli.train.profile import StepProfile, profile_step


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """Return how a recipe brings images to its network."""
    d = recipe.data
    return Preprocessing(d.image_size, d.resize, d.mean, d.std, d.augment, d.padding)


def start_run(
    recipe: Recipe, context: RunContext, *, source: str, out: str | None, force: bool, given: str | None
) -> dict[str, Any]:
    """Do a run from the start; everything that can be wrong is looked at before the run's folder is made.

    Args:
        source: where the recipe came from, for error messages.
        out, force: as for `RunFolder.create`.
        given: the text of the recipe's file.
    """
    data, start, specs, teacher = _load(recipe, context, source)
    require_alike(context.processes, recipe, data)
    if force:
        require_not_replaced(recipe, RunFolder.place(out, _run_name(recipe)))
    folder = create_folder(context.processes, out, _run_name(recipe), force=force)
    folder.write_recipe(recipe.model_dump(mode="json"), given)
    folder.write_environment(environment(context))
    context.reporter.note(f"run folder: {folder.path}")
    run = Run(recipe, folder, data, context, start.model)
    return _interruptible(folder, context, lambda: run.fresh(start, specs, teacher))


def resume_run(
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    context: RunContext,
    *,
    factory: str | None,
    teacher: str | None = None,
) -> dict[str, Any]:
    """Go on with a run that was interrupted.

    Args:
        checkpoint: its last one; None when it was stopped before the first, and starts over.
        factory: the `module:factory` that the caller names, where the run was trained with one.
        teacher: the one that the caller names for the teacher.
    """
    folder.writable = context.processes.first
    if checkpoint is None:
        recipe = folder.recipe()
        require_factory_named(recipe.model, factory, str(folder.path))
        require_named(factory_that_teaches(recipe), {factory, teacher}, how_to_go_on(recipe, folder))
        data, start, specs, found = _load(recipe, context, str(folder.path))
        require_alike(context.processes, recipe, data)
        run = Run(recipe, folder, data, context, start.model)
        return _interruptible(folder, context, lambda: run.fresh(start, specs, found))
    recipe = checkpoint.recipe
    model = restore_model(checkpoint, source=str(folder.path), factory=factory)
    kept = None
    if recipe.train.distillation is not None and recipe.train.distillation.teacher is not None:
        kept = open_kept_teacher(folder.checkpoint(TEACHER), {factory, teacher}, how_to_go_on(recipe, folder))
    if (caveat := unproven(checkpoint, str(folder.path))) is not None:
        context.reporter.note(f"note: {caveat}")
    data = _open_training_data(recipe, context)
    if not recipe.data.labels:
        data = replace(data, classes=checkpoint.classes)
    if checkpoint.classes != data.classes:
        raise InputError(f"the classes in `{recipe.data.name}` are no longer those of `{folder.path}`")
    known = checkpoint.progress.facts.get("images")
    require_same_images(data, known, name=recipe.data.name, run=str(folder.path))
    require_alike(context.processes, recipe, data, checkpoint.progress)
    specs = checkpoint.specs or _specify(recipe, model, data.classes, context, str(folder.path))
    context.reporter.note(
        f"going on with {folder.path}: {checkpoint.progress.phase}, epoch {checkpoint.progress.epoch + 1}"
    )
    _tell_of_the_machine(recipe, specs, context)
    run = Run(recipe, folder, data, context, model)
    return _interruptible(folder, context, lambda: run.resume(checkpoint, specs, kept))


def dry_run(recipe: Recipe, context: RunContext, *, source: str) -> list[LayerSpec]:
    """Do what comes before a run's folder is made, and return the specs of the layers: `--dry-run`."""
    _, start, specs, _ = _load(recipe, context, source)
    if start.needs_training and recipe.quantized and recipe.train.max_steps is None:
        context.reporter.note(f"before that: {baseline_in_words(recipe, baseline_phase(start, recipe))}")
    return specs


def profile(recipe: Recipe, context: RunContext, *, source: str) -> StepProfile:
    """Measure where a step of the run would go: `--profile`. Nothing is kept."""
    data, start, specs, named = _load(recipe, context, source)
    if not specs:
        raise UsageError("`--profile` compares the quantized step with the float one: nothing is quantized here")
    t, device = recipe.train, context.device
    batches = data.training.train_batches(t.batch_size, seed=(t.seed, Stream.CALIBRATION))
    some = [(x.to(device), y.to(device)) for _, (x, y) in zip(range(recipe.calibration.batches), batches, strict=False)]
    return profile_step(
        start.model.to(device),
        specs,
        some,
        t,
        start=recipe.calibration.start,
        classes=len(data.classes),
        steps_per_epoch=batches_per_pass(data.training, t.batch_size),
        teacher=None if t.distillation is None else named.network.to(device) if named is not None else "itself",
    )


def _load(
    recipe: Recipe, context: RunContext, source: str
) -> tuple[DataSet[Split], Start, list[LayerSpec], NamedTeacher | None]:
    require_known(recipe.model)  # before the data, which may have to be fetched
    data = _open_training_data(recipe, context)
    _tell_of_images(recipe, data, context)
    with context.processes.one_at_a_time():  # one downloads
        if recipe.data.labels:
            start = start_model(recipe, len(data.classes), context.reporter.note)
        else:
            start, classes = start_unlabelled(recipe, context.reporter.note)
            data = replace(data, classes=classes)
        teacher = find_teacher(recipe, data.classes, context.reporter.note)
    for note in start.notes:
        context.reporter.note(note)
    specs = _specify(recipe, start.model, data.classes, context, source)
    require_trainable(
        start.model,
        batch_size=recipe.train.batch_size,
        image_size=recipe.data.image_size,
        classes=len(data.classes),
        tell=context.reporter.note,
    )
    _tell_of_the_machine(recipe, specs, context)
    return data, start, specs, teacher


def _tell_of_the_machine(recipe: Recipe, specs: list[LayerSpec], context: RunContext) -> None:
    for note in (
        *precision_in_words(recipe, specs, context.device),
        *missing_in_words(recipe, specs, context.device),
    ):
        context.reporter.note(note)


def _tell_of_images(recipe: Recipe, data: DataSet[Split], context: RunContext) -> None:
    classes = f"{len(data.classes)} classes" if recipe.data.labels else "no labels"
    context.reporter.note(f"data: {len(data.training):,} training images, {data.result_name}, {classes}")
    for part, split in (("training", data.training), ("test", data.result)):
        if recipe.data.labels and (lacking := len(data.classes) - len(split.labels.unique())):
            have = "has" if lacking == 1 else "have"
            context.reporter.note(f"warning: {lacking} of {len(data.classes)} classes {have} no {part} images")


def _specify(
    recipe: Recipe, model: nn.Module, classes: tuple[str, ...], context: RunContext, source: str
) -> list[LayerSpec]:
    """Run the network once: does it give a logit per class? Then return the specs of the layers to quantize."""
    size = recipe.data.image_size
    example = torch.zeros(1, 3, size, size)
    seen = survey(model, example)
    require_logits(seen.output, len(classes), name=recipe.model)
    if not recipe.quantized:
        return []
    if seen.unused:
        context.reporter.note(f"never called, so left in float: {', '.join(seen.unused)}")
    require_quantizable(model, seen)
    specs = resolve_layers(recipe, seen.layers, source=source)
    for text in findings(model, specs, example, classes):  # before any training, the float one included
        context.reporter.note(f"warning: {text}")
    return specs


def _open_training_data(recipe: Recipe, context: RunContext) -> DataSet[Split]:
    name, processes = recipe.data.name, context.processes
    workers = -(-recipe.data.workers // processes.local_size)  # of a machine
    with processes.one_at_a_time() if name in NAMES else nullcontext():  # one downloads
        file = recipe.data.classes if recipe.data.labels else None  # without labels the network's own have the names
        classes = None if file is None else read_class_names(file)
        data = open_data(name, preprocessing_of(recipe), workers=workers, labelled=recipe.data.labels, classes=classes)
    for note in data.notes:
        context.reporter.note(f"data: {note}")
    if data.train is None:
        raise InputError(f"`{name}` has no training images", "put them into `train/` beside `test/`")
    require_enough_images(data.train, recipe.train.batch_size, processes)
    return data


def _interruptible(folder: RunFolder, context: RunContext, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do the work, and tell how to go on where it is broken off; a stop between the phases needs no checkpoint."""
    try:
        context.poll()  # from here on a signal is asked for, not taken at once
        with folder.held():
            folder.require_as_seen()
            return work()
    except StopRequested as stop:
        raise Interruption(
            stop.signal_number, "stopped between two phases", how_to_go_on(folder.recipe(), folder)
        ) from None
    except LostProcessError as lost:
        raise LostProcessError(lost.message, how_to_go_on(folder.recipe(), folder)) from lost


def _run_name(recipe: Recipe) -> str:
    model = name_for_files(recipe.model)
    if not recipe.quantized:
        return f"{model}-float"
    w, a = (getattr(s, "bits", "float") for s in (recipe.weights, recipe.activations))
    return f"{model}-w{w}a{a}-{scheme_of(recipe.weights.quantizer, recipe.activations.quantizer)}"


def open_run(path: str) -> tuple[RunFolder, Checkpoint | None]:
    """Return a run's folder and its last checkpoint, None before the first.

    Raises:
        InputError: not a run, or a corrupt checkpoint.
    """
    folder = RunFolder.open(Path(path)).look()
    last = folder.checkpoint(LAST)
    return folder, load_checkpoint(last) if last.is_file() else None
