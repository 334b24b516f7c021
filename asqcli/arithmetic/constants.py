"""The numbers of the fixed arithmetic, of which `csrc/constants.h` is the copy for C."""

from __future__ import annotations

import math

EXACT_FLOAT32 = 2**24  # whole numbers below it are exact in float32, and so are their sums

ADAPTER_LANES = 8  # partial sums of an adapter's products
PAPER_SMALLEST_BETA = 1e-8  # where the paper's form of the adapter is clamped
SIXTH = 1 / 6  # of the hard gates; rounded to float32 where it is used

# exp(-y) = 2^-k * exp(r) with r = k * ln 2 - y: ln 2 in two parts, the first of 32 bits, so that k * LN2_HIGH is exact.
LOG2_E = 1.4426950408889634
LN2_HIGH = 0.6931471803691238
LN2_LOW = 1.9082149292705877e-10
EXP_COEFFICIENTS = tuple(1 / math.factorial(n) for n in range(12, -1, -1))
EXP_LARGEST = 700.0  # exp(-700) is still a normal double
