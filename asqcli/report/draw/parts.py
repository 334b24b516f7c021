"""What pictures have in common: places of layers, spreads over images, values before and after rounding, legends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from asqcli.pictures import Look, literal
from asqcli.report.findings import Rounding, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.0  # inches, of all pictures
LEGEND_CHARACTERS = 105  # that fit into it
LONGEST_NAME, LONGEST_LABEL = 22, 48
MOST_NAMES = 44  # on one axis, side by side
MOST_MARKERS = 40


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters; what is left out is in its middle.

    >>> shortened("features.17.conv.2.depthwise", 16)
    'featur..epthwise'
    """
    if len(text) <= most:
        return text
    head = (most - 2) // 2 - 1
    return f"{text[:head]}..{text[len(text) - (most - 2 - head) :]}"


def name_places(axes: Axes, names: Sequence[str]) -> None:
    """Name the places 0, 1, .. of the x axis, upright; of very many every second, third and so on."""
    every = math.ceil(len(names) / MOST_NAMES)
    shown = range(0, len(names), every)
    labels = [literal(shortened(names[place], LONGEST_NAME)) for place in shown]
    axes.set_xticks(list(shown), labels, rotation=90, fontsize=7.5)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(axis="y")


def draw_spreads(axes: Axes, spreads: Sequence[Spread | None], look: Look, label: str, *, offset: float) -> None:
    """Draw a figure over images at the places 0, 1, ..: medians joined, quartiles thick, 5 and 95% thin.

    Args:
        spreads: None where there is none.
        offset: sideways, so that several series stand beside each other.
    """
    there = [(place + offset, spread) for place, spread in enumerate(spreads) if spread is not None]
    places = [place for place, _ in there]
    axes.vlines(places, [s.low for _, s in there], [s.high for _, s in there], colors=look.colour, linewidth=0.8)
    axes.vlines(places, [s.lower for _, s in there], [s.upper for _, s in there], colors=look.colour, linewidth=2.6,
                alpha=0.55)  # fmt: skip
    axes.plot(places, [s.median for _, s in there], look.line, marker=look.marker, color=look.colour, linewidth=1,
              markersize=4, label=literal(label))  # fmt: skip


def offsets(count: int) -> list[float]:
    """Return how far sideways each of several series stands.

    >>> offsets(1), offsets(3)
    ([0.0], [-0.2, 0.0, 0.2])
    """
    apart = min(0.2, 0.6 / count)
    return [round((k - (count - 1) / 2) * apart, 4) for k in range(count)]


def draw_before(axes: Axes, rounding: Rounding, *, density: bool) -> None:
    """Draw how values lie before they are rounded, in grey: shares of bins, or a density."""
    edges, shares = np.array(rounding.before.edges), np.array(rounding.before.shares)
    axes.stairs(shares / np.diff(edges) if density else shares, edges, fill=True, color="#bdbdbd", label="before")


def draw_after(axes: Axes, rounding: Rounding, look: Look, label: str) -> None:
    """Draw the share of the values at each level; levels that nobody uses are crosses at the bottom."""
    used = [(level, share) for level, share in zip(rounding.levels, rounding.shares, strict=True) if share > 0]
    places, shares = [level for level, _ in used], [share for _, share in used]
    marker: Any = look.marker if len(rounding.levels) <= MOST_MARKERS else "none"
    axes.vlines(places, 0, shares, colors=look.colour, linewidth=1.4)
    axes.plot(places, shares, linestyle="none", marker=marker, color=look.colour, label=literal(label))
    unused = [level for level, share in zip(rounding.levels, rounding.shares, strict=True) if share == 0]
    if unused:
        transform = axes.get_xaxis_transform()
        axes.plot(unused, [0.0] * len(unused), linestyle="none", marker="x", markersize=4, color="#000000",
                  transform=transform, clip_on=False, label="level that nothing is rounded to")  # fmt: skip


def legend_above(figure: Figure, *axes: Axes) -> None:
    """Put one legend over the whole figure, each label once, in as many columns as fit."""
    found: dict[str, Any] = {}
    for some in axes:
        for handle, label in zip(*some.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        labels = [shortened(label, LONGEST_LABEL) for label in found]
        columns = max(1, min(len(labels), LEGEND_CHARACTERS // (max(map(len, labels)) + 8)))
        figure.legend(list(found.values()), labels, loc="outside upper center", ncols=columns)


def finite(values: Sequence[float | None]) -> list[float]:
    """Return numbers for a line, which has a gap where there is none."""
    return [math.nan if value is None or not math.isfinite(value) else value for value in values]
