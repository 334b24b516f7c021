"""Pictures as PNG, in one style. Needs matplotlib, which only `asqcli[report]` installs.

Series differ by line and marker as well as by colour, so that a print in grey, and a reader who does not see red
from green, can tell them apart. The colours are those of Okabe and Ito.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asqcli.errors import MachineError, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
SOFTWARE = "asq, with matplotlib"  # in the files, by which they are known again
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # which comes with matplotlib: the same picture everywhere
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


@dataclass(frozen=True)
class Look:
    """How one series looks.

    Attributes:
        colour, line, marker: as matplotlib names them.
    """

    colour: str
    line: str
    marker: str


LOOKS = (
    Look("#0072B2", "-", "o"),
    Look("#D55E00", "--", "s"),
    Look("#000000", "-.", "^"),
    Look("#009E73", ":", "D"),
    Look("#CC79A7", "-", "v"),
    Look("#E69F00", "--", "P"),
)


def look(index: int) -> Look:
    """Return how the series with this number looks; after six they come again."""
    return LOOKS[index % len(LOOKS)]


def require_matplotlib(what: str) -> None:
    """Find out whether anything can be drawn.

    Args:
        what: needs it, in words.
    Raises:
        MachineError: matplotlib is missing.
    """
    if find_spec("matplotlib") is None:
        raise MachineError(f"{what} needs matplotlib", "pip install 'asqcli[report]'")


@contextmanager
def styled() -> Generator[None]:
    """Hold matplotlib's settings at this style: around all that draws, and around `png`."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name in letters that the font lacks is shown as boxes, and is in full beside the picture.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; width and height in inches."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, metadata={"Software": SOFTWARE})
    return content.getvalue()


def is_own_png(path: Path) -> bool:
    """Is a file a picture that `png` made?"""
    with suppress(OSError), path.open("rb") as file:
        return f"Software\0{SOFTWARE}".encode() in file.read(200)
    return False


def literal(text: str) -> str:
    """Return a stranger's text for a picture: no formula begins in it, and no legend passes over it.

    >>> literal("_a$b"), literal("a\\n")
    (' _a\\\\$b', 'a\\\\n')
    """
    text = printable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
