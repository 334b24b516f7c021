"""Accuracy and loss over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from asqcli.pictures import literal, look, new_figure
from asqcli.report.draw.parts import WIDTH, finite, legend_above
from asqcli.report.subject import RunReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASELINES = ("warmup", "finetune")  # phases of float training before quantization
PANELS = (("top1", "train_top1", "top-1 accuracy, %"), ("loss", "train_loss", "loss"))
MOST_WITH_TRAINING = 3  # runs; with more, lines of training would hide those of evaluation


def draw_curves(runs: Sequence[RunReport]) -> Figure:
    """Draw runs over each other, aligned where quantization begins."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(WIDTH, 3.9)
    panels = list(figure.subplots(1, 2))
    for axes, (key, train_key, title) in zip(panels, PANELS, strict=True):
        for run in runs:
            _draw_run(axes, run, key, train_key if len(runs) <= MOST_WITH_TRAINING else None)
        axes.set_xlabel("epoch of quantized training (0 and before: float training)")
        axes.set_ylabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid()
    if all(not _is_quantized(run) for run in runs):
        for axes in panels:
            axes.set_xlabel("epoch")
    legend_above(figure, panels[0])
    return figure


def _draw_run(axes: Axes, run: RunReport, key: str, train_key: str | None) -> None:
    style = look(run.index)
    phases = [list(records) for _, records in groupby(run.subject.epochs, key=lambda record: record["phase"])]
    for records in phases:
        phase = records[0]["phase"]
        last = records[-1]["epoch"] if phase in BASELINES else 0
        places = [record["epoch"] - last for record in records]
        quantized = phase == "qat"
        # Hollow markers: float.
        axes.plot(places, finite([record.get(key) for record in records]), style.line, marker=style.marker,
                  color=style.colour, markerfacecolor=style.colour if quantized else "white",
                  label=literal(_label(run, quantized)))  # fmt: skip
        if train_key is not None:
            axes.plot(places, finite([record[train_key] for record in records]), style.line, color=style.colour,
                      linewidth=0.8, alpha=0.6)  # fmt: skip


def _label(run: RunReport, quantized: bool) -> str:
    """Return the run's name with the last accuracy of a part of its training."""
    records = [record for record in run.subject.epochs if (record["phase"] == "qat") == quantized]
    value = finite([records[-1].get("top1")])[0]
    return f"{run.label}, {'quantized' if quantized else 'float'}: {value:.2f}%"


def _is_quantized(run: RunReport) -> bool:
    return any(record["phase"] == "qat" for record in run.subject.epochs)
