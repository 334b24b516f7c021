"""What training's evaluation (torch) and the integer engine (NumPy) must have in common to give the same bits.

The same formulas stand in `asqcli.quant.ordered` and `asqcli.engine.numpy.operations`, and in words in FORMAT.md; their
numbers stand here. No torch and no NumPy: both sides import it.
"""

from __future__ import annotations

import math

EXACT_FLOAT32 = 2**24  # whole numbers below it are exact in float32, and so are their sums

LANES = 8  # partial sums of an adapter's products
PAPER_SMALLEST_BETA = 1e-8  # where the paper's form of the adapter is clamped
SIXTH = 1 / 6  # of the hard gates; rounded to float32 where it is used

# exp(-y) = 2^-k * exp(-r): ln 2 in two parts, of which the first has 32 bits, so that k * LN2_HIGH is exact.
LOG2_E = 1.4426950408889634
LN2_HIGH = 0.6931471803691238
LN2_LOW = 1.9082149292705877e-10
EXP_COEFFICIENTS = tuple(1 / math.factorial(n) for n in range(12, -1, -1))
EXP_LARGEST = 700.0  # exp(-700) is still a normal double


def adaptive_windows(pixels: int, windows: int) -> list[tuple[int, int]]:
    """Return (first, end) of each window of an adaptive pool along one side of an image.

    Window i of o along n pixels goes from floor(i * n / o) to ceil((i + 1) * n / o).

    >>> adaptive_windows(7, 2)
    [(0, 4), (3, 7)]
    """
    return [(i * pixels // windows, -(-(i + 1) * pixels // windows)) for i in range(windows)]
