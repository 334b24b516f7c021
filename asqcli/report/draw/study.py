"""Accuracy of the rows of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asqcli.pictures import literal, look, new_figure
from asqcli.report.draw.parts import LONGEST_NAME, WIDTH, legend_above, shortened
from asqcli.report.study import Row, StudyDocument

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HALF_ROW = 0.3  # of the distance between rows: half the length of a mean's bar


def draw_study(document: StudyDocument) -> Figure:
    """Draw a point for each seed of each row, their mean, and the float networks that they started from.

    Rows with the same bits stand together, most bits first; between bits there is a gap.
    """
    figure = new_figure(WIDTH, 4.2)
    axes = figure.subplots()
    schemes = list(dict.fromkeys(row.scheme for row in document.rows))
    places = _places(document.rows)
    for row, place in places:
        style = look(schemes.index(row.scheme))
        seeds = [cell.top1 for cell in row.cells if cell.top1 is not None]
        floats = [cell.float_top1 for cell in row.cells if cell.float_top1 is not None]
        axes.plot([place] * len(seeds), seeds, linestyle="none", marker=style.marker, markerfacecolor="white",
                  color=style.colour, label=f"{literal(row.scheme)}, one seed")  # fmt: skip
        if row.mean is not None:
            axes.hlines(row.mean, place - HALF_ROW, place + HALF_ROW, colors=style.colour, linewidth=2.2,
                        label="mean of a row")  # fmt: skip
        if floats:
            axes.hlines(sum(floats) / len(floats), place - HALF_ROW, place + HALF_ROW, colors="#555555",
                        linestyles="dotted", linewidth=1.6, label="float, mean of a row")  # fmt: skip
    labels = [f"{shortened(row.row, LONGEST_NAME)}, {_bits(row)}" for row, _ in places]
    axes.set_xticks([place for _, place in places], [literal(label) for label in labels], rotation=90, fontsize=7.5)
    axes.set_xlim(-0.8, max((place for _, place in places), default=0) + 0.8)
    axes.grid(axis="y")
    axes.set_ylabel("top-1 accuracy, %")
    legend_above(figure, axes)
    return figure


def _places(rows: list[Row]) -> list[tuple[Row, float]]:
    """Return the rows from left to right, each with its place."""
    widths = sorted({row.bits for row in rows}, key=lambda bits: (isinstance(bits, str), str(bits)), reverse=True)
    ordered = [(number, row) for number, bits in enumerate(widths) for row in rows if row.bits == bits]
    return [(row, index + 0.7 * number) for index, (number, row) in enumerate(ordered)]


def _bits(row: Row) -> str:
    return f"{row.bits} bits" if isinstance(row.bits, int) else row.bits
