"""`asq quantize`: train a network with quantization in the loop."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asqcli.cli.options import (
    BatchSizeOption,
    ClassesOption,
    DataOption,
    DebugOption,
    DeviceOption,
    JsonOption,
    NprocOption,
    OverridesOption,
    RecipeOption,
    ThreadsOption,
    WeightsOption,
)
from asqcli.cli.processes import joined_processes, processes_of_command, run_all
from asqcli.errors import UsageError
from asqcli.machine import keep_freed_memory
from asqcli.processes.failures import launched, restarts

if TYPE_CHECKING:
    from asqcli.cli.signals import StopSignals
    from asqcli.processes.alone import Processes
    from asqcli.recipe.resolve import Request
    from asqcli.recipe.schema import Recipe
    from asqcli.run.checkpoint import Checkpoint
    from asqcli.run.context import RunContext
    from asqcli.run.folder import RunFolder


def quantize(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="resnet20, a torchvision classifier, timm:NAME, or module:factory."),
    ] = None,
    recipe: RecipeOption = None,
    scheme: Annotated[
        str | None,
        typer.Option("--scheme", metavar="post|asq|pot|apot|lsq|float", help="Quantizers for weights and activations."),
    ] = None,
    bits: Annotated[
        int | None, typer.Option("--bits", metavar="B", help="Bits of weights and activations, 2 to 8.")
    ] = None,
    data: DataOption = None,
    no_labels: Annotated[
        bool, typer.Option("--no-labels", help="Learn from the float network's answers alone, on any images.")
    ] = False,
    classes: ClassesOption = None,
    weights: WeightsOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs of quantized training.")] = None,
    batch_size: BatchSizeOption = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate at the start of the cosine.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar="float32|bfloat16", help="What training multiplies in.")
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    nproc: NprocOption = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="The run's folder. Default: runs/NAME.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in --out, or in runs/NAME.")] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with an interrupted run.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Stop after N steps, without a float warm-up.")
    ] = None,
    overrides: OverridesOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show the recipe and the layers, train nothing.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure where a training step's time goes, and stop.")
    ] = False,
    json_: JsonOption = False,
    _debug: DebugOption = False,
) -> None:
    """Fine-tune a network with quantization in the loop.

    Precedence: defaults for the data, then the recipe, then flags, then --set. Without --data: handwritten digits.
    """
    from asqcli.recipe.resolve import Request

    flags = {
        "data.name": (data, "--data"),
        "data.labels": (False if no_labels else None, "--no-labels"),
        "data.classes": (classes, "--classes"),
        "pretrained": (weights, "--weights"),
        "train.epochs": (epochs, "--epochs"),
        "train.batch_size": (batch_size, "--batch-size"),
        "train.lr": (lr, "--lr"),
        "train.seed": (seed, "--seed"),
        "train.max_steps": (max_steps, "--max-steps"),
        "train.precision": (precision, "--precision"),
    }
    request = Request(model, recipe, scheme, bits, flags, overrides or [])
    looks = {"--dry-run": dry_run, "--profile": profile}
    if resume:
        _refuse({"--out": out, "--force": force, **looks}, "--resume")
    several = processes_of_command(nproc)
    if several > 1:
        _refuse(looks, "--nproc" if nproc else "torchrun")
    if several > 1 and not launched():
        raise typer.Exit(run_all(several, threads))
    with joined_processes(device) as processes:
        if resume:
            _resume(resume, request, device, threads, json_, processes)
        else:
            _start(request, device, threads, out, force, dry_run, profile, json_, processes)


def _refuse(given: dict[str, Any], beside: str) -> None:
    for flag, value in given.items():
        if value:
            raise UsageError(f"`{flag}` makes no sense beside `{beside}`")


def _start(
    request: Request,
    device: str | None,
    threads: int | None,
    out: str | None,
    force: bool,
    dry_run: bool,
    profile: bool,
    json_: bool,
    processes: Processes,
) -> None:
    from asqcli.cli.console import note
    from asqcli.recipe.resolve import resolve

    resolved = resolve(request)
    if processes.first:
        note(resolved.note)
        if restarts() and out is None:
            note("warning: started again by torchrun: a run without `--out` is not found, and begins anew")
    if profile:  # torch's profiler would tell of itself on stderr
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")

    from asqcli.cli.signals import StopSignals
    from asqcli.cli.tables.quantize import print_dry_run, print_profile
    from asqcli.run import entry
    from asqcli.run.together import is_there

    if restarts() and out is not None and is_there(processes, out, resolved.recipe):
        _go_on(entry.open_run(out), request, device, threads, json_, processes)
        return
    with StopSignals(processes) as signals:
        context = _run_context(device, threads, signals)
        if dry_run:
            specs = entry.dry_run(resolved.recipe, context, source=resolved.source)
            print_dry_run(resolved.recipe, specs, json_)
            return
        if profile:
            print_profile(entry.profile(resolved.recipe, context, source=resolved.source), json_)
            return
        result = entry.start_run(
            resolved.recipe, context, source=resolved.source, out=out, force=force, given=resolved.given
        )
    _show(result, json_, processes)


def _resume(
    run: str, request: Request, device: str | None, threads: int | None, json_: bool, processes: Processes
) -> None:
    from asqcli.recipe.resolve import resolve, resolve_again
    from asqcli.run import entry

    folder, checkpoint = entry.open_run(run)
    stored = folder.recipe() if checkpoint is None else checkpoint.recipe
    asked = resolve(request).recipe if request.recipe else resolve_again(stored, request)
    _refuse_another_recipe(stored, asked, run)
    _go_on((folder, checkpoint), request, device, threads, json_, processes)


def _go_on(
    run: tuple[RunFolder, Checkpoint | None],
    request: Request,
    device: str | None,
    threads: int | None,
    json_: bool,
    processes: Processes,
) -> None:
    from asqcli.cli.console import note
    from asqcli.cli.signals import StopSignals
    from asqcli.recipe.resolve import teacher_stated
    from asqcli.run import entry

    folder, checkpoint = run
    if (result := folder.result()) is not None:
        if processes.first:
            note(f"{folder.path} is finished already")
        _show(result, json_, processes)
        return
    threads = threads or folder.threads(processes.size)
    with StopSignals(processes) as signals:
        context = _run_context(device, threads, signals)
        result = entry.resume_run(folder, checkpoint, context, factory=request.model, teacher=teacher_stated(request))
    _show(result, json_, processes)


def _show(result: dict[str, Any], json_: bool, processes: Processes) -> None:
    from asqcli.cli.tables.quantize import print_result

    if processes.first:
        print_result(result, json_)


def _refuse_another_recipe(stored: Recipe, asked: Recipe, run: str) -> None:
    from asqcli.recipe.changes import changes_in_words

    if (changes := changes_in_words(stored, asked)) is not None:
        raise UsageError(
            f"`{run}` cannot be resumed with another recipe: {changes}", "leave these out, or start a new run"
        )


def _run_context(device: str | None, threads: int | None, signals: StopSignals) -> RunContext:
    import torch

    from asqcli.cli.console import ConsoleReporter
    from asqcli.run.context import RunContext, select_device
    from asqcli.train.reporter import Reporter

    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    processes = signals.processes
    return RunContext(
        device=select_device(device, processes),
        reporter=ConsoleReporter() if processes.first else Reporter(),
        poll=signals.poll,
        command=("asq", *sys.argv[1:]),
        processes=processes,
    )
