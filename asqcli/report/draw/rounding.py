"""Values before and after rounding: weights on their levels (as the paper's Fig. 3), inputs of a layer (Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from asqcli.pictures import literal, look, new_figure
from asqcli.report.draw.parts import WIDTH, draw_after, draw_before, legend_above, shortened
from asqcli.report.findings import ImageInput, LevelUse
from asqcli.report.subject import RunReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOWEST_SHARE = 1e-4
LONGEST_TITLE = 40


def draw_levels(run: RunReport) -> Figure:
    """Draw the weights of a run in units of their scale: all layers together, then some alone."""
    uses = run.findings.levels
    rows = (len(uses) + 1) // 2
    figure = new_figure(WIDTH, 1.0 + 2.3 * rows)
    panels = figure.subplots(rows, 2, squeeze=False).flatten()
    legends: list[Axes] = []
    for axes, use in zip(panels, uses, strict=False):
        shares = axes.twinx()
        legends += [axes, shares]
        draw_before(axes, use.rounding, density=True)
        draw_after(shares, use.rounding, look(run.index), "after, on levels (right scale)")
        shares.set_ylim(bottom=0)
        shares.spines["right"].set_visible(True)
        shares.set_ylabel("share of the weights")
        axes.set_ylabel("density")
        axes.set_xlabel(f"weight / {use.unit}")
        axes.set_title(literal(shortened(_title(use), LONGEST_TITLE)))
    for axes in panels[len(uses) :]:
        axes.set_visible(False)
    legend_above(figure, *legends)
    return figure


def _title(use: LevelUse) -> str:
    return use.layers[0] if len(use.layers) == 1 else f"{len(use.layers)} layers with {use.quantizer}"


def draw_inputs(runs: Sequence[RunReport]) -> Figure:
    """Draw the input of a layer, a column for each run, a row for each image, before and after quantization."""
    views = [run.findings.layer_input for run in runs]
    columns = [view.images for view in views if view is not None]
    rows = max(map(len, columns))
    figure = new_figure(WIDTH, 0.9 + 2.4 * rows)
    panels = figure.subplots(rows, len(runs), squeeze=False, sharey=True, sharex="row")
    for column, (run, view) in enumerate(zip(runs, views, strict=True)):
        for row, image in enumerate(columns[column]):
            axes = panels[row][column]
            draw_before(axes, image.rounding, density=False)
            draw_after(axes, image.rounding, look(run.index), f"after, {run.label}")
            axes.set_yscale("log")
            axes.set_ylim(LOWEST_SHARE, 1.5)
            quantizer = "" if view is None else view.quantizer
            axes.set_title(f"{literal(shortened(quantizer, 18))}, image {image.image}: {_step(image)}")
            if row == rows - 1:
                axes.set_xlabel("activation")
            if column == 0:
                axes.set_ylabel("share of the activations")
    legend_above(figure, *panels.flatten())
    return figure


def _step(image: ImageInput) -> str:
    beta = "" if image.beta is None else f"β {image.beta:.3f}, "
    return f"{beta}step {image.step_size:.3g}"
