"""Errors that quantization makes: of outputs, accumulated (as the paper's Fig. 5), and of each layer (Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from asqcli.pictures import literal, look, new_figure
from asqcli.report.draw.parts import WIDTH, draw_spreads, legend_above, name_places, offsets
from asqcli.report.subject import RunReport

if TYPE_CHECKING:
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
    """Draw what rounding does to the input and to the weights of each layer; the runs have the same layers."""
    figure = new_figure(WIDTH, 5.6)
    inputs, weights = figure.subplots(2, 1, sharex=True)
    for run, offset in zip(runs, offsets(len(runs)), strict=True):
        style, layers = look(run.index), run.findings.layers
        draw_spreads(inputs, [layer.activation_error for layer in layers], style, run.label, offset=offset)
        there = [(k + offset, layer.weight_error) for k, layer in enumerate(layers) if layer.weight_error is not None]
        weights.plot([place for place, _ in there], [error for _, error in there], style.line, marker=style.marker,
                     color=style.colour, linewidth=1, markersize=4, label=literal(run.label))  # fmt: skip
    name_places(inputs, [layer.name for layer in runs[0].findings.layers])
    name_places(weights, [layer.name for layer in runs[0].findings.layers])
    inputs.tick_params(labelbottom=False)
    for axes, what in ((inputs, "input"), (weights, "weights")):
        axes.set_yscale("log")
        axes.set_ylabel(f"relative error of the {what}")
    legend_above(figure, inputs, weights)
    return figure
