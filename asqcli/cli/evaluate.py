"""`asq eval`: measure the accuracy of a run, a checkpoint, an exported file, or a float model with weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asqcli.cli.options import (
    BatchSizeOption,
    ClassesOption,
    DataOption,
    DebugOption,
    DeviceOption,
    JsonOption,
    OverridesOption,
    RecipeOption,
    ThreadsOption,
    WeightsOption,
)
from asqcli.errors import CheckFailed, InputError, UsageError, printable
from asqcli.machine import keep_freed_memory, usable_processors
from asqcli.measures import ACCURACY

if TYPE_CHECKING:
    import torch

    from asqcli.recipe.resolve import Request


def evaluate(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A run folder, a checkpoint, an .asq file, or a model's name.")
    ],
    weights: WeightsOption = None,
    data: DataOption = None,
    classes: ClassesOption = None,
    recipe: RecipeOption = None,
    overrides: OverridesOption = None,
    batch_size: BatchSizeOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    min_top1: Annotated[
        float | None,
        typer.Option("--min-top1", metavar="PERCENT", min=0, max=100, help="Exit with 1 when top-1 is lower."),
    ] = None,
    json_: JsonOption = False,
    _debug: DebugOption = False,
) -> None:
    """Measure accuracy on a data set's test images, or, of a run without labels, agreement on its own.

    How images reach the network comes from the run, the file or the official weights; else from --recipe and --set.
    """
    if not Path(target).exists() and ("/" in target or target.endswith(".asq")) and ":" not in target:
        raise InputError(f"no run folder, checkpoint or exported file `{target}`")
    from asqcli.cli.console import percent, print_facts, print_json
    from asqcli.cli.evaluation_keys import require_evaluation_keys
    from asqcli.cli.preprocessing import in_words
    from asqcli.recipe.resolve import Request

    if Path(target).is_file() and _is_exported(target):
        if recipe is not None or overrides:
            raise UsageError(
                f"the preprocessing of `{target}` is part of the file", "leave out --recipe and --set, or name the run"
            )
        measured = _measure_exported(target, weights, data, classes, device, threads)
    else:
        require_evaluation_keys(overrides or [])
        flags = {
            "data.name": (data, "--data"),
            "data.classes": (classes, "--classes"),
            "pretrained": (weights, "--weights"),
        }
        request = Request(None, recipe, None, None, flags, overrides or [])
        measured = _measure_network(target, request, batch_size, device, threads)
    accuracy, measure, measured_on, name, preprocessing = measured
    if not math.isfinite(accuracy.loss):
        raise InputError(
            f"`{name}` answers images with NaN or infinity", "its training diverged, or its weights are broken"
        )
    passed = min_top1 is None or accuracy.top1 >= min_top1
    document = {
        "schema": 1,
        "target": target,
        "weights": name,
        "measures": measure.title,
        "measured_on": measured_on,
        "preprocessing": preprocessing,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "loss": accuracy.loss,
        "images": accuracy.images,
    }
    if min_top1 is not None:
        document |= {"min_top1": min_top1, "passed": passed}
    if json_:
        print_json(document)
    else:
        facts = {"target": target, "weights": name, "measured on": measured_on}
        facts["preprocessing"] = in_words(preprocessing)
        if name == target:
            del facts["weights"]
        facts |= {measure.share: percent(accuracy.top1), measure.top5: percent(accuracy.top5)}
        print_facts(measure.title.capitalize(), {**facts, "loss": f"{accuracy.loss:.4f}"})
    if not passed:
        raise CheckFailed(f"{measure.share} is {accuracy.top1:.2f}%, less than the {min_top1:.2f}% asked for")


def _is_exported(target: str) -> bool:
    from asqcli.artifact.file import SUFFIX, is_artifact

    return target.endswith(SUFFIX) or is_artifact(Path(target))


def _measure_exported(
    target: str, weights: str | None, data: str | None, classes: str | None, device: str | None, threads: int | None
):
    """Return what `_measure_network` does, by the integer engine; no torch."""
    from asqcli.cli.console import tell_of_data
    from asqcli.cli.preprocessing import described
    from asqcli.data.class_names import renamed
    from asqcli.data.samples import find_samples
    from asqcli.engine import load
    from asqcli.engine.predict import measure

    if weights is not None or device not in (None, "cpu"):
        raise UsageError("an exported file has its own weights and runs on the CPU", "leave out --weights and --device")
    session = load(target, threads=threads or usable_processors())
    data = data or _own_data(target, session.artifact.document.provenance.data)
    samples = find_samples(data, classes=renamed(session.artifact.document.classes, classes, target))
    tell_of_data(samples.notes)
    preprocessing = described(session.artifact.document.input, "the file")
    return measure(session, samples.result), ACCURACY, samples.result_name, target, preprocessing


def _own_data(target: str, data: str | None) -> str:
    """Return the data set that an exported file was trained on. A file of a stranger may not choose a folder here."""
    from asqcli.data.layout import NAMES

    if data in NAMES:
        return data
    trained_on = "does not say what it was trained on" if data is None else f"was trained on `{printable(data)}`"
    raise UsageError(f"`{target}` {trained_on}", f"name a data set with --data: {', '.join(NAMES)} or a folder")


def _measure_network(target: str, request: Request, batch_size: int | None, device: str | None, threads: int | None):
    """Return (accuracy, what that means, the images, where the weights are from, preprocessing), by torch."""
    import torch

    from asqcli.cli.console import tell_of_data
    from asqcli.cli.preprocessing import described
    from asqcli.nn.held_weights import weights_held
    from asqcli.run.context import select_device
    from asqcli.train.evaluate import evaluate as measure

    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    torch_device = select_device(device)
    with weights_held():
        model, images, name, recipe, origins = _open(target, request, torch_device)
        tell_of_data(images.notes)
        accuracy = measure(
            model.to(torch_device),
            images.result,
            batch_size=batch_size,
            device=torch_device,
            classes=len(images.classes),
        )
    return accuracy, recipe.data.measure, images.result_name, name, described(recipe.data, origins)


def _open(target: str, request: Request, device: torch.device):
    """Return (network, data, where its weights are from, recipe, who said its preprocessing)."""
    from asqcli.run.restore import find_checkpoint

    weights, _ = request.flags["pretrained"]
    if (path := find_checkpoint(target)) is not None:
        if weights is not None:
            raise UsageError(f"`{target}` has its own weights; --weights goes with a model's name")
        return _open_checkpoint(path, target, request, device)
    if Path(target).is_file():
        raise InputError(f"`{target}` is not a checkpoint of asq", "for plain weights: `asq eval MODEL --weights FILE`")
    request = replace(request, model=target)
    if weights is not None and (path := find_checkpoint(weights)) is not None:
        return _open_checkpoint(path, weights, request, device)
    return _open_float(request)


def _open_checkpoint(path: Path, source: str, request: Request, device: torch.device):
    from asqcli.cli.console import remark, warn
    from asqcli.data.class_names import renamed
    from asqcli.data.source import open_data
    from asqcli.recipe.resolve import resolve_measured
    from asqcli.run.checkpoint import load_checkpoint
    from asqcli.run.entry import preprocessing_of
    from asqcli.run.folder import FLOAT_TEACHER
    from asqcli.run.restore import restore_model, unfinished, unproven
    from asqcli.run.teacher import open_teacher
    from asqcli.run.unlabelled import label_by

    checkpoint = load_checkpoint(path)
    classes = renamed(checkpoint.classes, request.flags["data.classes"][0], source)
    warn(unfinished(path, checkpoint))
    remark(unproven(checkpoint, source))
    recipe, origins = resolve_measured(checkpoint.recipe, request)
    model = restore_model(checkpoint, source=source, factory=request.model)
    data, _ = request.flags["data.name"]
    labelled = data is not None or recipe.data.labels
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"labels": labelled})})
    try:
        images = open_data(
            data or recipe.data.name,
            preprocessing_of(recipe),
            workers=recipe.data.workers,
            with_train=False,
            labelled=labelled,
            classes=classes if labelled else None,
        )
    except InputError as error:
        if data is not None:
            raise
        raise InputError(error.message, f"`{source}` was trained on it; name where it is now with --data") from error
    if not labelled:
        teacher = open_teacher(path.with_name(FLOAT_TEACHER), checkpoint.recipe, len(checkpoint.classes))
        images = label_by(teacher.to(device), replace(images, classes=classes), device=device)
    return model, images, source, recipe, origins


def _open_float(request: Request):
    from asqcli.cli.console import note
    from asqcli.cli.preprocessing import guess
    from asqcli.data.class_names import read_class_names
    from asqcli.data.source import open_data
    from asqcli.models.official import require_official
    from asqcli.models.registry import require_known
    from asqcli.recipe.resolve import resolve
    from asqcli.run.entry import preprocessing_of
    from asqcli.run.start import load_float_model

    resolved = resolve(replace(request, scheme="float"), measuring=True)
    recipe = resolved.recipe
    require_known(recipe.model)
    if recipe.pretrained in ("auto", "official"):
        require_official(recipe.model)
        recipe = recipe.model_copy(update={"pretrained": "official"})
    file = recipe.data.classes
    images = open_data(
        recipe.data.name,
        preprocessing_of(recipe),
        workers=recipe.data.workers,
        with_train=False,
        classes=None if file is None else read_class_names(file),
    )
    model = load_float_model(recipe, len(images.classes), note)
    note(resolved.note)
    note(guess(resolved.origins))
    return model, images, recipe.pretrained, recipe, resolved.origins
