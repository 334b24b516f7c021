"""What runs are and what they came to, side by side, and the layers of each: tables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from asqcli.recipe.schema import FloatOperand, Recipe
from asqcli.report.findings import LayerFinding, Spread
from asqcli.report.page.html import NOTHING, Markup, element, items, number, table
from asqcli.report.subject import RunReport

ERROR, BETA = ".4f", ".3f"
PACKAGES = ("asqcli", "torch", "torchvision", "numpy")


def runs_side_by_side(runs: Sequence[RunReport]) -> Markup:
    """Return the facts of runs, a column for each; rows that nobody has anything in are left out."""
    columns = [_facts(run) for run in runs]
    rows = [
        [name, *(column.get(name, NOTHING) for column in columns)]
        for name in dict.fromkeys(name for column in columns for name in column)
    ]
    return table(["", *(run.label for run in runs)], rows, numbers_from=len(runs) + 1)


def _facts(run: RunReport) -> dict[str, str]:
    subject, findings = run.subject, run.findings
    result: dict[str, Any] = subject.result or {}
    facts = {
        "folder": str(subject.folder.path),
        "state": "finished" if subject.result is not None else _standing(run),
        **_settings(subject.recipe),
        "start": result.get("weights", ""),
        "float top-1": _percent(result.get("float_top1")),
        "calibrated, untrained": _percent(result.get("calibrated_top1")),
        "top-1": _percent(result.get("top1")),
        "top-5": _percent(result.get("top5")),
        "loss": number(result.get("loss"), ".4f"),
        "measured on": result.get("measured_on", ""),
        "training took": _seconds(result.get("seconds")),
        "exported": "" if findings.exported is None else f"{findings.exported.bytes:,} bytes",
        **_environment(subject.environment),
    }
    return {name: fact for name, fact in facts.items() if fact not in ("", NOTHING)}


def _standing(run: RunReport) -> str:
    if not run.subject.epochs:
        return "not finished, no epoch done"
    last = run.subject.epochs[-1]
    return f"not finished: {last['phase']} epoch {last['epoch']} is done, top-1 {_percent(last.get('top1'))}"


def _settings(recipe: Recipe) -> dict[str, str]:
    train, data = recipe.train, recipe.data
    steps = "" if train.max_steps is None else f", stopped after {train.max_steps:,} steps"
    settings = {
        "model": recipe.model,
        "data": f"{data.name}, {data.image_size} pixels, augmented by {data.augment}",
        "weights": _operand(recipe.weights),
        "activations": _operand(recipe.activations),
        "training": f"{train.epochs} epochs, batch {train.batch_size}, {train.optimizer}, lr {train.lr:g}{steps}",
        "seed": str(train.seed),
    }
    if recipe.quantized:
        settings["first and last layer"] = str(recipe.first_last) + " bits" * (recipe.first_last == 8)
        settings["rules for single layers"] = str(len(recipe.layers) or "")
        settings["distillation"] = "" if train.distillation is None else f"weight {train.distillation.weight:g}"
    return settings


def _environment(environment: dict[str, Any]) -> dict[str, str]:
    versions = ", ".join(f"{name} {environment[name]}" for name in PACKAGES if name in environment)
    where = ", ".join(str(environment[key]) for key in ("platform", "device") if key in environment)
    threads = environment.get("threads")
    return {
        "packages": versions,
        "machine": where + (f", {threads} thread{'s' * (threads > 1)}" if threads else ""),
        "command": shlex.join(map(str, environment.get("command", []))),
    }


def notes_of(run: RunReport) -> Markup:
    """Return a run's warnings, and what of it could not be measured, or nothing."""
    result: dict[str, Any] = run.subject.result or {}
    texts = [f"warning: {warning}" for warning in result.get("warnings", [])] + run.findings.notes
    return Markup(element("h3", run.label) + items(texts)) if texts else Markup()


def layers_of(run: RunReport) -> Markup:
    """Return the table of a run's quantized layers."""
    layers = run.findings.layers
    rows = [_row(k, layer) for k, layer in enumerate(layers, 1)]
    sums = [layer.bytes for layer in layers if layer.bytes is not None]
    times = [layer.microseconds for layer in layers if layer.microseconds is not None]
    rows.append(["", "all", "", "", "", "", "", number(sum(sums), ",.0f") if sums else NOTHING,
                 number(sum(times), ",.1f") if times else NOTHING])  # fmt: skip
    headings = ["", "layer", "weights", "activations", "weight error", "input error", "β", "bytes", "µs"]
    return Markup(table(headings, rows, numbers_from=4, name="layers") + element("p", _about(run), class_="note"))


def _row(index: int, layer: LayerFinding) -> list[str]:
    return [
        str(index),
        layer.name,
        layer.weights,
        layer.activations,
        number(layer.weight_error, ERROR),
        _spread(layer.activation_error, ERROR),
        _spread(layer.beta, BETA),
        number(layer.bytes, ",d"),
        number(layer.microseconds, ",.1f"),
    ]


def _about(run: RunReport) -> str:
    findings = run.findings
    text = "Errors are |quantized - float| / |float|; of inputs and β the median over images, and 5 to 95%. "
    if findings.exported is not None:
        text += "Bytes: what an export stores of the layer, its scales and adapter among them; tables of levels, which "
        text += "layers share, and batch norms apart. "
    if any(layer.microseconds is not None for layer in findings.layers) and findings.exported is not None:
        text += (
            f"µs: one image on one thread, by the kernel {findings.exported.kernel} on {findings.exported.processor}, "
        )
        text += "with the operations that are done in the same step."
    return text


def _spread(spread: Spread | None, form: str) -> str:
    if spread is None:
        return NOTHING
    return f"{number(spread.median, form)} ({number(spread.low, form)} to {number(spread.high, form)})"


def _operand(operand: object) -> str:
    return "float" if isinstance(operand, FloatOperand) else str(operand)


def _percent(value: float | None) -> str:
    text = number(value, ".2f")
    return text if text == NOTHING else f"{text}%"


def _seconds(value: float | None) -> str:
    text = number(value, ",.0f")
    return text if text == NOTHING else f"{text} s"
