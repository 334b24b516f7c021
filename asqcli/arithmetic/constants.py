"""The numbers of the fixed arithmetic, of which `csrc/constants.h` is the copy for C."""

from __future__ import annotations

import math

EXACT_FLOAT32 = 2**24  # whole numbers below it are exact in float32, and so are their sums

ADAPTER_LANES = 8  # partial sums of an adapter's products
PAPER_SMALLEST_BETA = 1e-8  # where the paper's form of the adapter is clamped
SIXTH = 1 / 6  # factor of the hard gates; rounded to float32 where it is used

# exp(-y) = 2^-k * exp(r) with r = k * ln 2 - y: ln 2 in two parts, the first of 32 bits, so that k * LN2_HIGH is exact.
LOG2_E = 1.4426950408889634
LN2_HIGH = 0.6931471803691238
LN2_LOW = 1.9082149292705877e-10
EXP_COEFFICIENTS = tuple(1 / math.factorial(n) for n in range(12, -1, -1))
EXP_LARGEST = 700.0  # exp(-700) is still a normal double

# The normal distribution's tail below -y is p(s) * s * exp(-y * y / 2) with s = 4 / (4 + y): p interpolates, off by
# less than 1e-10 of the tail for y in 0..16. Below -16 the tail is 0 in float32.
TAIL_LARGEST = 16.0
TAIL_WIDTH = 4.0
TAIL_COEFFICIENTS = (
    0.007906073929109126,
    -0.06481483250239566,
    0.22377792879563507,
    -0.4152184417996558,
    0.45187465105400676,
    -0.3382994855315742,
    0.20957415295128307,
    -0.028891879464000243,
    0.08348651736011863,
    0.07717488472096533,
    0.09399543858754178,
    0.09969814867746007,
    0.0997368432199058,
)
# GELU's form by tanh is x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x^3)).
GELU_TANH_LINEAR = 1.5957691216057308
GELU_TANH_CUBIC = 0.07135481627260025
