"""`asq quantize`: train a network with quantization in the loop."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asqcli.cli.options import (
    BatchSizeOption,
    DataOption,
    DebugOption,
    DeviceOption,
    JsonOption,
    OverridesOption,
    RecipeOption,
    ThreadsOption,
    WeightsOption,
)
from asqcli.errors import UsageError
from asqcli.machine import keep_freed_memory

if TYPE_CHECKING:
    from asqcli.cli.signals import StopSignals
    from asqcli.quant.spec import LayerSpec
    from asqcli.recipe.resolve import Request
    from asqcli.recipe.schema import Recipe
    from asqcli.run.context import RunContext
    from asqcli.train.profile import StepProfile

SHOWN_KEYS = 8  # keys that differ


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
    weights: WeightsOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs of quantized training.")] = None,
    batch_size: BatchSizeOption = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate at the start of the cosine.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
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
        "pretrained": (weights, "--weights"),
        "train.epochs": (epochs, "--epochs"),
        "train.batch_size": (batch_size, "--batch-size"),
        "train.lr": (lr, "--lr"),
        "train.seed": (seed, "--seed"),
        "train.max_steps": (max_steps, "--max-steps"),
    }
    request = Request(model, recipe, scheme, bits, flags, overrides or [])
    if resume:
        _refuse({"--out": out, "--force": force, "--dry-run": dry_run, "--profile": profile}, "--resume")
        _resume(resume, request, device, threads, json_)
    else:
        _start(request, device, threads, out, force, dry_run, profile, json_)


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
) -> None:
    from asqcli.cli.console import note
    from asqcli.recipe.resolve import resolve

    resolved = resolve(request)
    note(resolved.note)
    if profile:  # torch's profiler would tell of itself on stderr
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")

    from asqcli.cli.signals import StopSignals
    from asqcli.run import entry

    with StopSignals() as signals:
        context = _run_context(device, threads, signals)
        if dry_run:
            specs = entry.dry_run(resolved.recipe, context, source=resolved.source)
            _show_dry_run(resolved.recipe, specs, json_)
            return
        if profile:
            _show_profile(entry.profile(resolved.recipe, context, source=resolved.source), json_)
            return
        result = entry.start_run(
            resolved.recipe, context, source=resolved.source, out=out, force=force, given=resolved.given
        )
    _show_result(result, json_)


def _resume(run: str, request: Request, device: str | None, threads: int | None, json_: bool) -> None:
    from asqcli.cli.console import note
    from asqcli.cli.signals import StopSignals
    from asqcli.recipe.resolve import resolve, resolve_again
    from asqcli.run import entry

    folder, checkpoint = entry.open_run(run)
    stored = folder.recipe() if checkpoint is None else checkpoint.recipe
    asked = resolve(request).recipe if request.recipe else resolve_again(stored, request)
    _refuse_another_recipe(stored, asked, run)
    if (result := folder.result()) is not None:
        note(f"{run} is finished already")
        _show_result(result, json_)
        return
    threads = threads or folder.threads()
    with StopSignals() as signals:
        context = _run_context(device, threads, signals)
        result = entry.resume_run(folder, checkpoint, context, factory=request.model)
    _show_result(result, json_)


def _refuse_another_recipe(stored: Recipe, asked: Recipe, run: str) -> None:
    if stored == asked:
        return
    before, after = (_flat(r.model_dump(mode="json")) for r in (stored, asked))
    keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    changed = [f"`{k}` {json.dumps(before.get(k))} -> {json.dumps(after.get(k))}" for k in keys[:SHOWN_KEYS]]
    more = f", and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    raise UsageError(
        f"`{run}` cannot be resumed with another recipe: {', '.join(changed)}{more}",
        "leave these out, or start a new run",
    )


def _flat(section: dict[str, Any], inside: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{inside}{key}.") if isinstance(value, dict) else {inside + key: value}
    return flat


def _run_context(device: str | None, threads: int | None, signals: StopSignals) -> RunContext:
    import torch

    from asqcli.cli.console import ConsoleReporter
    from asqcli.run.context import RunContext, select_device

    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    return RunContext(
        device=select_device(device),
        reporter=ConsoleReporter(),
        poll=signals.poll,
        command=("asq", *sys.argv[1:]),
    )


def _show_dry_run(recipe: Recipe, specs: list[LayerSpec], json_: bool) -> None:
    import yaml

    from asqcli.cli.console import print_json, print_layers, stdout
    from asqcli.cli.streams import results

    resolved = recipe.model_dump(mode="json")
    if json_:
        print_json({"schema": 1, "recipe": resolved, "layers": [spec.model_dump(mode="json") for spec in specs]})
        return
    results().write(yaml.safe_dump(resolved, sort_keys=False))
    if specs:
        print_layers(stdout(), specs)


def _show_profile(profile: StepProfile, json_: bool) -> None:
    from dataclasses import asdict

    from asqcli.cli.console import print_facts, print_json

    if json_:
        print_json({"schema": 1, **asdict(profile), "ratio": round(profile.ratio, 3)})
        return
    facts = {
        "float step": f"{profile.float_ms:.1f} ms",
        "quantized step": f"{profile.quantized_ms:.1f} ms, {profile.ratio:.2f} of the float step",
    }
    facts |= {f"  {name}": f"{ms:.1f} ms" for name, ms in profile.sections_ms.items()}
    facts |= {name: f"{share:.1f}% of the quantized step" for name, share in profile.operators.items()}
    more = f", {profile.peak_mib / profile.float_peak_mib:.2f} of the float step's" if profile.float_peak_mib else ""
    facts["memory of a quantized step"] = f"{profile.peak_mib:.1f} MiB{more}"
    print_facts("Where a training step goes (medians, alternating)", facts)


def _show_result(result: dict[str, Any], json_: bool) -> None:
    from asqcli.cli.console import percent, print_facts, print_json

    if json_:
        print_json(result)
        return
    quantized = result["scheme"] != "float"
    network = f"{result['model']}, scheme {result['scheme']}"
    if quantized:
        network += f", weights {result['weight_bits']} bits, activations {result['activation_bits']} bits"
    if rules := result.get("layer_rules"):
        network += f", and {rules} layer rule{'s' if rules > 1 else ''}"
    facts = {"network": network, "measured on": result["measured_on"], "float top-1": percent(result["float_top1"])}
    trained = result.get("float_trained", True)  # else a difference to it says nothing
    if not trained:
        facts["float top-1"] += ", untrained"
    if quantized:
        points = f" ({result['top1'] - result['float_top1']:+.2f} points)" if trained else ""
        facts["quantized top-1"] = percent(result["top1"]) + points
        facts["before training"] = percent(result["calibrated_top1"])
    facts["top-5"] = percent(result["top5"])
    if "beta" in result:
        facts["beta"] = "{:.2f} to {:.2f}".format(*result["beta"])
    facts |= {"seed": str(result["seed"]), "run": result["run"]}
    print_facts("Result", facts)
