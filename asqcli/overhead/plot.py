"""The adapters' shares as a bar chart. Needs matplotlib, which only `asqcli[report]` installs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asqcli.errors import UsageError
from asqcli.files import write_atomically
from asqcli.pictures import literal, new_figure, png, require_matplotlib, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]  # one bit-width in the command's JSON

COLOURS = {"published": "#9a9a9a", "stored": "#d1652c", "compute": "#3b75af"}
BAR_WIDTH = 0.38


def check_plot(path: Path) -> None:
    """Find out, before anything is counted, whether a chart can be drawn at all.

    Raises:
        UsageError: the name does not end in .png.
        MachineError: matplotlib is missing.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"`--plot` writes PNG, and `{path}` does not end in .png")
    require_matplotlib("`--plot`")


def write_plot(path: Path, title: str, rows: Sequence[Row]) -> None:
    """Draw the chart into a PNG file.

    Args:
        rows: of the command's JSON: bits, param_percent, stored_param_percent, compute_percent.
    Raises:
        MachineError: the file cannot be written.
    """
    with styled():
        write_atomically(path, png(_draw(title, rows)))


def _draw(title: str, rows: Sequence[Row]) -> Figure:
    figure = new_figure(9, 4)
    figure.suptitle(f"What the adapters of ASQ add to {literal(title)}")
    storage, compute = figure.subplots(1, 2)
    _bars(storage, rows, {"as published": "param_percent", "as stored by export": "stored_param_percent"},
          (COLOURS["published"], COLOURS["stored"]))  # fmt: skip
    storage.set_ylabel("storage added, % of the rest")
    storage.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    _bars(compute, rows, {"as published": "compute_percent"}, (COLOURS["compute"],))
    compute.set_ylabel("operations added, % (as published)")
    return figure


def _bars(axes: Axes, rows: Sequence[Row], keys: dict[str, str], colours: Sequence[str]) -> None:
    """Draw a group of bars for each bit-width, one bar for each key, with its number on top."""
    for k, (label, key) in enumerate(keys.items()):
        places = [place + (k - (len(keys) - 1) / 2) * BAR_WIDTH for place in range(len(rows))]
        bars = axes.bar(places, [row[key] for row in rows], BAR_WIDTH, label=label, color=colours[k])
        axes.bar_label(bars, fmt="{:.2f}", padding=2, fontsize=8)
    axes.set_xticks(range(len(rows)), [f"{row['bits']} bits" for row in rows])
    axes.margins(y=0.15)
