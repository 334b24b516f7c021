"""What a value in units of its scale can become."""

from __future__ import annotations

from dataclasses import dataclass

from asqcli.quant.levels import LevelSet


@dataclass(frozen=True)
class UniformGrid:
    """All whole numbers from `qmin` to `qmax`."""

    qmin: int
    qmax: int


Grid = UniformGrid | LevelSet


def bounds(grid: Grid) -> tuple[float, float]:
    """Return what values are clipped to, in units of the scale."""
    return (grid.qmin, grid.qmax) if isinstance(grid, UniformGrid) else (-grid.largest, grid.largest)
