"""Level sets: what values a weight code can stand for, as small integers.

No integer engine equals an irrational grid, so the square root of two is a fraction from the start: with 7/5, within
1%, the seven magnitudes of 4-bit POST are {40, 28, 20, 14, 10, 7, 5} / 40, with 17/12, within 0.2%, {96, 68, 48, 34,
24, 17, 12} / 96. Everything downstream, the fake quantizer of training included, uses the integers. The default is the
grid of small integers: networks on it were no less accurate (bench/RESULTS.md), and the engine needs fewer products
for them.

A code of a power set is a sign bit over b - 1 bits of magnitude index: 0 is zero, k = 1.. is the k-th largest
magnitude.

Departs from the paper: Eqs. 3 and 17 as printed hold 2^b + 1 levels, which no b-bit code can name; the paper's remark
that 2-bit POST is ternary fits 2^b - 1. `printed=True` gives the printed set, whose codes take b + 1 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product

from asqcli.errors import BoundsError
from asqcli.quant.bounds import check_bits, integer_bounds

MAX_POWER_BITS = 4
GRIDS = {"7/5": Fraction(7, 5), "17/12": Fraction(17, 12), "exact": None}
DEFAULT_GRID = "7/5"
INT8_MAX = 127


@dataclass(frozen=True)
class LevelSet:
    """Signed levels that a code of `code_bits` bits can name.

    Attributes:
        magnitudes: the positive levels, largest first; integers, except on the `exact` POST grid.
        code_bits: bits of a stored code, sign included.
    """

    magnitudes: tuple[float, ...]
    code_bits: int

    @property
    def largest(self) -> float:
        """The magnitude that stands for the clipping threshold."""
        return self.magnitudes[0]

    @property
    def integer(self) -> bool:
        """Can an integer engine run these levels?"""
        return all(float(m).is_integer() and m <= INT8_MAX for m in self.magnitudes)

    @property
    def boundaries(self) -> tuple[float, ...]:
        """Midpoints between neighbouring magnitudes, zero included, smallest first."""
        ascending = (0, *reversed(self.magnitudes))
        return tuple((low + high) / 2 for low, high in pairwise(ascending))

    @property
    def level_table(self) -> tuple[float, ...]:
        """Code to level, 2^code_bits entries; codes that name nothing (such as minus zero) hold 0."""
        half = 2 ** (self.code_bits - 1)
        table = [0.0] * (2 * half)
        for k, magnitude in enumerate(self.magnitudes, start=1):
            table[k], table[half + k] = magnitude, -magnitude
        return tuple(table)


def uniform_level_table(bits: int) -> tuple[int, ...]:
    """Return the level of each two's-complement code of `bits` bits: 0, 1, .., qmax, qmin, .., -1.

    >>> uniform_level_table(2)
    (0, 1, -2, -1)
    """
    qmin, qmax = integer_bounds(bits, signed=True)
    return (*range(qmax + 1), *range(qmin, 0))


def post_levels(bits: int, *, grid: str = DEFAULT_GRID, printed: bool = False) -> LevelSet:
    """Return the powers of the square root of two (Eq. 17), on a grid of integers.

    Args:
        bits: 2 to 4, sign included.
        grid: the fraction that stands for the square root of two, `7/5` or `17/12`, or `exact`.
        printed: the 2^b + 1 levels of Eq. 17 as printed, for study.
    Raises:
        BoundsError: the bits or the grid do not exist, or the set does not fit in int8.

    >>> post_levels(4, grid="17/12").magnitudes
    (96, 68, 48, 34, 24, 17, 12)
    >>> post_levels(4, grid="7/5", printed=True).magnitudes
    (56, 40, 28, 20, 14, 10, 7, 5)
    """
    count, code_bits = _size(bits, printed)
    if grid not in GRIDS:
        raise BoundsError(f"there is no POST grid `{grid}`, choose {', '.join(GRIDS)}")
    root = GRIDS[grid]
    if root is None:
        return LevelSet(tuple(math.sqrt(2) ** -k for k in range(count)), code_bits)
    # A chain of doublings from two neighbours: 5, 7, 10, 14, .. Its lowest `count` members are the smallest integers
    # in these ratios, which keeps the accumulators small.
    chain = sorted(m << k for m in (root.denominator, root.numerator) for k in range(count))[:count]
    magnitudes = _in_lowest_terms(reversed(chain))
    if magnitudes[0] > INT8_MAX:
        raise BoundsError(
            f"the printed {bits}-bit POST set does not fit in int8 on the grid {grid}",
            "choose `grid: 7/5` or `grid: exact`",
        )
    return LevelSet(magnitudes, code_bits)


def pot_levels(bits: int, *, printed: bool = False) -> LevelSet:
    """Return the powers of two (Eq. 3).

    >>> pot_levels(3).magnitudes
    (4, 2, 1)
    """
    count, code_bits = _size(bits, printed)
    return LevelSet(tuple(2**k for k in reversed(range(count))), code_bits)


def apot_levels(bits: int) -> LevelSet:
    """Return the additive powers of two of Li et al. (2020): each magnitude a sum of at most two powers.

    At 4 bits one of {0, 1, 4, 8} plus one of {0, 2}. With fewer bits there is one term, and the set is POT's.

    >>> apot_levels(4).magnitudes
    (10, 8, 6, 4, 3, 2, 1)
    """
    if check_bits(bits, most=MAX_POWER_BITS) < 4:
        return pot_levels(bits)
    sums = {a + b for a, b in product((0, 1, 4, 8), (0, 2))}
    return LevelSet(tuple(sorted(sums - {0}, reverse=True)), bits)


def _size(bits: int, printed: bool) -> tuple[int, int]:
    """Return (number of magnitudes, bits of a code)."""
    check_bits(bits, most=MAX_POWER_BITS)
    return (2 ** (bits - 1), bits + 1) if printed else (2 ** (bits - 1) - 1, bits)


def _in_lowest_terms(values: Iterable[int]) -> tuple[int, ...]:
    values = tuple(values)
    divisor = math.gcd(*values)
    return tuple(v // divisor for v in values)
