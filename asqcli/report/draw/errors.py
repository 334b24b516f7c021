"""Errors that quantization makes: of outputs, accumulated (as the paper's Fig. 5), and of each layer (Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from asqcli.pictures import literal, look, new_figure
from asqcli.report.draw.parts import WIDTH, draw_spreads, finite, legend_above, name_places, offsets
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
    has_inputs, has_weights = (any(error is not None for run in runs for error in operand(run)) for operand in OPERANDS)
    count = has_inputs + has_weights
    figure = new_figure(WIDTH, 1.6 + 2.0 * count)
    panels: list[Axes] = list(figure.subplots(count, 1, sharex=True, squeeze=False).flatten())
    for run, offset in zip(runs, offsets(len(runs)), strict=True):
        style = look(run.index)
        if has_inputs:
            draw_spreads(panels[0], _input_errors(run), style, run.label, offset=offset)
        if has_weights:
            places = [k + offset for k in range(len(run.findings.layers))]
            panels[-1].plot(places, finite(_weight_errors(run)), style.line, marker=style.marker, color=style.colour,
                            linewidth=1, markersize=4, label=literal(run.label))  # fmt: skip
    for axes in panels:
        name_places(axes, [layer.name for layer in runs[0].findings.layers])
        axes.set_yscale("log")
        axes.tick_params(labelbottom=axes is panels[-1])
    for axes, what in zip(panels, ["input"] * has_inputs + ["weights"] * has_weights, strict=True):
        axes.set_ylabel(f"relative error of the {what}")
    legend_above(figure, *panels)
    return figure


def _input_errors(run: RunReport) -> list[Spread | None]:
    return [layer.activation_error for layer in run.findings.layers]


def _weight_errors(run: RunReport) -> list[float | None]:
    return [layer.weight_error for layer in run.findings.layers]


OPERANDS = (_input_errors, _weight_errors)
