"""Float to codes and levels, as evaluation and export have them.

Reciprocals are taken first and multiplied by, everywhere: `x / s` and `x * (1 / s)` differ in the last bit, and an
engine that multiplies must see the codes that training saw.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from asqcli.arithmetic.division import divided
from asqcli.quant.levels import LevelSet

CACHED = 2**16  # values that a processor's second cache holds while they are gone through several times


def quantize(x: Tensor, step_size: Tensor, *, qmin: int, qmax: int) -> Tensor:
    """Return the codes of `x`, whole numbers in the dtype of `x` (Eqs. 1 and 5), rounding half to even.

    Args:
        x: any shape, real units.
        step_size: broadcastable to `x`; real units, above 0.

    >>> quantize(torch.tensor([0.24, 0.9, -1.0]), torch.tensor(0.25), qmin=0, qmax=3)
    tensor([1., 3., 0.])
    """
    return (x * (1.0 / step_size)).round_().clamp_(qmin, qmax)


def quantize_to_levels(weight: Tensor, clipping_threshold: Tensor, level_set: LevelSet) -> tuple[Tensor, Tensor]:
    """Return the nearest levels of `weight` and the weight scale: weight is about levels * scale.

    Nearest by absolute distance on the grid in use, a tie goes to the larger magnitude.

    Args:
        weight: (C_out, ..), real units.
        clipping_threshold: the alpha of Eqs. 3 and 17, broadcastable to `weight`; real units, above 0.
    Returns:
        levels, shape of `weight`, entries of the set's level table in units of the scale; and
        scale = clipping_threshold / largest magnitude, the real value of level 1.
    """
    scale = divided(clipping_threshold, level_set.largest)
    return nearest_level(weight * (1.0 / scale), level_set), scale


def nearest_level(scaled: Tensor, level_set: LevelSet) -> Tensor:
    """Return the level nearest to each value; `scaled`: any shape, in units of the level table."""
    if level_set.integer and scaled.device.type == "cpu":
        return _nearest_integer_level(scaled.abs(), level_set).copysign_(scaled)
    boundaries, magnitudes = level_tables(level_set, scaled.dtype, scaled.device)
    # right=True counts a boundary as passed when met: ties go to the larger magnitude.
    return magnitudes[torch.bucketize(scaled.abs().contiguous(), boundaries, right=True)].copysign(scaled)


@cache
def level_tables(level_set: LevelSet, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (boundaries, 0 and the magnitudes), smallest first, on a device: copied to it once, for that waits."""
    ascending = (level_set.boundaries, (0.0, *reversed(level_set.magnitudes)))
    boundaries, magnitudes = (torch.tensor(values, dtype=dtype, device=device) for values in ascending)
    return boundaries, magnitudes


def _nearest_integer_level(magnitude: Tensor, level_set: LevelSet) -> Tensor:
    """Return 0 and, for each boundary that is met, the distance to the next level: sums of integers, so exact.

    On a CPU three times as fast as a search, which PyTorch does one value after the other.
    """
    levels = (0.0, *reversed(level_set.magnitudes))
    nearest = magnitude.new_zeros(magnitude.shape)
    for part, sums in zip(magnitude.reshape(-1).split(CACHED), nearest.view(-1).split(CACHED), strict=True):
        met = torch.empty_like(part)
        for boundary, (low, high) in zip(level_set.boundaries, pairwise(levels), strict=True):
            torch.ge(part, boundary, out=met)
            sums.add_(met, alpha=high - low)
    return nearest
