"""The adapters' answers, by layer: over images, and from epoch to epoch of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from asqcli.pictures import literal, look, new_figure
from asqcli.report.draw.parts import WIDTH, draw_spreads, finite, legend_above, name_places, offsets
from asqcli.report.subject import RunReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_LAYERS = 4  # of a run over training


def draw_betas(runs: Sequence[RunReport]) -> Figure:
    """Draw each layer's beta over images; the runs have the same layers with adapters."""
    figure = new_figure(WIDTH, 3.9)
    axes = figure.subplots()
    axes.axhline(1, color="#555555", linewidth=0.8)
    for run, offset in zip(runs, offsets(len(runs)), strict=True):
        spreads = [layer.beta for layer in run.findings.layers if layer.beta is not None]
        draw_spreads(axes, spreads, look(run.index), run.label, offset=offset)
    name_places(axes, [layer.name for layer in runs[0].findings.layers if layer.beta is not None])
    axes.set_ylabel("β")
    legend_above(figure, axes)
    return figure


def draw_betas_in_training(run: RunReport) -> Figure:
    """Draw the range of some adapters' betas over the images that were watched, after each epoch of a run."""
    from matplotlib.ticker import MaxNLocator

    records = [record for record in run.subject.epochs if record.get("beta")]
    names = _spread_evenly(list(records[-1]["beta"]))
    figure = new_figure(WIDTH, 3.4)
    axes = figure.subplots()
    axes.axhline(1, color="#555555", linewidth=0.8)
    for number, name in enumerate(names):
        style = look(number)
        ranges = [record["beta"].get(name, (None, None)) for record in records]
        lows, highs = (finite(ends) for ends in zip(*ranges, strict=True))
        epochs = [record["epoch"] for record in records]
        axes.fill_between(epochs, lows, highs, facecolor=style.colour, edgecolor=style.colour, alpha=0.18)
        axes.plot(epochs, highs, style.line, marker=style.marker, color=style.colour, label=literal(name))
        axes.plot(epochs, lows, style.line, marker=style.marker, color=style.colour, markerfacecolor="white")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    axes.set_xlabel("epoch of quantized training")
    axes.set_ylabel("smallest and largest β")
    legend_above(figure, axes)
    return figure


def _spread_evenly(names: list[str]) -> list[str]:
    last = max(1, SHOWN_LAYERS - 1)
    return list(dict.fromkeys(names[k * (len(names) - 1) // last] for k in range(SHOWN_LAYERS)))
