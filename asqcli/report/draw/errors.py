"""Errors that quantization makes: of outputs, accumulated (as the paper's Fig. 5), and of each layer (Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from asqcli.pictures import look, new_figure
from asqcli.report.draw.parts import WIDTH, draw_spreads, legend_above, name_places, offsets
from asqcli.report.findings import Spread
from asqcli.report.subject import RunReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_output_errors(runs: Sequence[RunReport]) -> Figure:
    """Draw the accumulated error after each block; the runs have the same blocks."""
    figure = new_figure(WIDTH, 3.9)
    axes = figure.subplots()
    for run, offset in zip(runs, offsets(len(runs)), strict=True):
        spreads = [output.error for output in run.findings.outputs]
        draw_spreads(axes, spreads, look(run.index), run.label, offset=offset)
    name_places(axes, [output.name for output in runs[0].findings.outputs])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("relative error of the output")
    legend_above(figure, axes)
    return figure


def draw_layer_errors(runs: Sequence[RunReport]) -> Figure:
    """Draw what rounding does to the input and to the weights of each layer; the runs have the same layers.

    An operand that no run has an error of is left out.
    """
    shown = {what: errors for what, errors in OPERANDS.items() if any(e is not None for r in runs for e in errors(r))}
    figure = new_figure(WIDTH, 1.6 + 2.0 * len(shown))
    panels: list[Axes] = list(figure.subplots(len(shown), 1, sharex=True, squeeze=False).flatten())
    for axes, (what, errors) in zip(panels, shown.items(), strict=True):
        for run, offset in zip(runs, offsets(len(runs)), strict=True):
            draw_spreads(axes, errors(run), look(run.index), run.label, offset=offset)
        name_places(axes, [layer.name for layer in runs[0].findings.layers])
        axes.tick_params(labelbottom=axes is panels[-1])
        axes.set_yscale("log")
        axes.grid(axis="y", which="minor", linewidth=0.3)
        axes.set_ylabel(f"relative error of the {what}")
    legend_above(figure, *panels)
    return figure


def _input_errors(run: RunReport) -> list[Spread | None]:
    return [layer.activation_error for layer in run.findings.layers]


def _weight_errors(run: RunReport) -> list[Spread | None]:
    errors = (layer.weight_error for layer in run.findings.layers)
    return [None if error is None else Spread(*[error] * 5) for error in errors]  # the same for all images


OPERANDS = {"input": _input_errors, "weights": _weight_errors}
