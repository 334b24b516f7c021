"""The formulas of the fixed arithmetic, for arrays of NumPy and tensors of torch: `xp` is the module of one of them.

Neither is imported here, so that the engine does without torch. Each operation is rounded by itself, and on tensors
each has a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from asqcli.arithmetic.constants import (
    ADAPTER_LANES,
    EXP_COEFFICIENTS,
    EXP_LARGEST,
    GELU_TANH_CUBIC,
    GELU_TANH_LINEAR,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    PAPER_SMALLEST_BETA,
    SIXTH,
    TAIL_COEFFICIENTS,
    TAIL_LARGEST,
    TAIL_WIDTH,
)
from asqcli.arithmetic.windows import Windows, adaptive_windows, sliding_windows

# Partial sums of `linear` made at a time: 2 MB. All of them would be 100 MB for 256 images of a VGG, 8 times as slow.
CACHED_NUMBERS = 2**18

Array = Any  # NumPy's or a tensor
Pair = tuple[int, int]


def mean(xp: ModuleType, x: Array) -> Array:
    """Return the mean over all dimensions between the first and the last, in float32.

    Sums in double: first along the last but one dimension, element after element, then along the one before it, and
    so on; then divides, then rounds once.

    Args:
        x: channels last, (N, H, W, C) or (N, length, C) or (N, C).
    Returns:
        (N, C), float32.
    """
    if x.ndim == 2:
        return _cast(x, xp.float32)
    sums = x
    while sums.ndim > 2:
        sums = _running_sum(xp, _lines(xp, sums, -2))
    return _averages(xp, sums, _numbers(xp, math.prod(x.shape[1:-1]), sums))


def avg_pool(
    xp: ModuleType, x: Array, kernel_size: Pair, stride: Pair, border: Pair, *, count_include_pad: bool
) -> Array:
    """Return averages over windows, (N, C, H_out, W_out), float32.

    Each row of a window is summed from left to right and the rows from top to bottom, in double; then a division by the
    number of values, then one rounding. A window that lies in the border altogether holds nothing: 0 / 1.

    Args:
        x: with its border of zeros, (N, C, H + 2 * border[0], W + 2 * border[1]).
        count_include_pad: do the zeros of the border count as values?
    """
    height, width = x.shape[2:]
    rows, columns = ((n - k) // s * s + 1 for n, k, s in zip((height, width), kernel_size, stride, strict=True))
    x = _cast(x, xp.float64)
    x = _running_sum(xp, [x[:, :, :, j : j + columns : stride[1]] for j in range(kernel_size[1])])
    x = _running_sum(xp, [x[:, :, i : i + rows : stride[0]] for i in range(kernel_size[0])])
    if count_include_pad or border == (0, 0):
        return _averages(xp, x, _numbers(xp, math.prod(kernel_size), x))
    image = height - 2 * border[0], width - 2 * border[1]
    heights, widths = map(sliding_windows, image, kernel_size, stride, border)
    return _averages(xp, x, _window_sizes(xp, heights, widths, x))


def adaptive_avg_pool(xp: ModuleType, x: Array, output_size: Pair) -> Array:
    """Return averages over `output_size` windows that cover the image, (N, C, H, W) to (N, C, *output_size), float32.

    A window's values (see `adaptive_windows`) are added as in `avg_pool`.
    """
    heights, widths = map(adaptive_windows, x.shape[2:], output_size)
    for axis, windows in ((3, widths), (2, heights)):
        lines = _lines(xp, x, axis)
        x = xp.stack([_running_sum(xp, lines[first:end]) for first, end in windows], axis)
    return _averages(xp, x, _window_sizes(xp, heights, widths, x))


def _window_sizes(xp: ModuleType, heights: Windows, widths: Windows, beside: Array) -> Array:
    """Return the number of values in each window, (H_out, W_out) in double; where there is none, any but 0."""
    down, across = (_numbers(xp, [max(end - first, 1) for first, end in side], beside) for side in (heights, widths))
    return down[:, None] * across


def _averages(xp: ModuleType, sums: Array, counts: Array) -> Array:
    """Return sums, which are overwritten, by the number of their terms."""
    sums /= counts  # an array, even of one number: by a bare one torch does not divide on GPUs, but multiplies
    return _cast(sums, xp.float32)


def _running_sum(xp: ModuleType, terms: Sequence[Array]) -> Array:
    """Return the sum in double, from 0.0, added from the first to the last."""
    total = 0.0 + _cast(terms[0], xp.float64)
    for term in terms[1:]:
        total += term
    return total


def sigmoid(xp: ModuleType, x: Array) -> Array:
    """Return 1 / (1 + exp(-x)) in float32, of the shape of `x`.

    In double, with e = exp(-|x|) by Horner's rule on the Taylor series to the 12th power after a division by powers of
    two; then e / (1 + e) below zero and 1 / (1 + e) from zero on, rounded once. Off by less than one unit in the last
    place of float32, and equal everywhere, which library functions are not.
    """
    x = _cast(x, xp.float64)
    return _sigmoid(xp, x, xp.abs(x))


def _sigmoid(xp: ModuleType, x: Array, magnitude: Array) -> Array:
    """Return sigmoid(magnitude) with the sign of `x`, in float32; both double."""
    e = _exp_of_negative(xp, xp.clip(magnitude, None, EXP_LARGEST))
    return _cast(xp.where(x < 0, e, 1.0) / (1.0 + e), xp.float32)


def _exp_of_negative(xp: ModuleType, y: Array) -> Array:
    """Return exp(-y) for y in 0..700, double; a NaN stays."""
    k = xp.round(y * LOG2_E)
    r = (k * LN2_HIGH - y) + k * LN2_LOW  # exp(-y) = exp(r) / 2^k, |r| <= ln(2) / 2
    power = _polynomial(xp, r, EXP_COEFFICIENTS)
    return power * ((1023 - _cast(k, xp.int64)) << 52).view(xp.float64)  # the bits of 2^-k


def _polynomial(xp: ModuleType, x: Array, coefficients: Sequence[float]) -> Array:
    """Return a polynomial by Horner's rule, the highest power's coefficient first."""
    power = xp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        power = power * x + coefficient
    return power


def tanh(xp: ModuleType, x: Array) -> Array:
    """Return 2 * sigmoid(2 * x) - 1, of which each step is rounded to float32: off by up to 2^-24, also near 0."""
    return sigmoid(xp, x * 2.0) * 2.0 - 1.0


def silu(xp: ModuleType, x: Array) -> Array:
    """Return x * sigmoid(x), of which sigmoid(x) is rounded to float32."""
    return x * sigmoid(xp, x)


def hardsigmoid(xp: ModuleType, x: Array) -> Array:
    """Return min(max(x + 3, 0), 6) / 6, in float32 throughout."""
    return xp.clip(x + 3.0, 0.0, 6.0) * SIXTH


def hardswish(xp: ModuleType, x: Array) -> Array:
    """Return x * hardsigmoid(x)."""
    return x * hardsigmoid(xp, x)


def gelu(xp: ModuleType, x: Array) -> Array:
    """Return x times the normal distribution up to x, which is rounded to float32 and off by less than a unit there.

    The tail below -|x| is exp(-x * x / 2), as in `sigmoid`, times a polynomial in s = 4 / (4 + |x|) without a constant.
    """
    wide = _cast(x, xp.float64)
    y = xp.clip(xp.abs(wide), None, TAIL_LARGEST)
    e = _exp_of_negative(xp, y * y * 0.5)
    s = TAIL_WIDTH / (TAIL_WIDTH + y)
    tail = _polynomial(xp, s, TAIL_COEFFICIENTS) * s * e
    return x * _cast(xp.where(wide < 0, tail, 1.0 - tail), xp.float32)


def gelu_tanh(xp: ModuleType, x: Array) -> Array:
    """Return GELU in its form by tanh: x times a sigmoid of a cubic of x, the sigmoid rounded to float32."""
    wide = _cast(x, xp.float64)
    cubic = xp.abs(wide) * (wide * wide * GELU_TANH_CUBIC + GELU_TANH_LINEAR)
    return x * _sigmoid(xp, wide, cubic)


GATES = {
    "sigmoid": sigmoid,
    "silu": silu,
    "hardsigmoid": hardsigmoid,
    "hardswish": hardswish,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
}


def adapter(xp: ModuleType, means: Array, layers: Iterable[tuple[Array, Array, Array]]) -> Array:
    """Return what an adapter's layers make of an input's means, in double: `beta` follows.

    Args:
        means: (N, channels).
        layers: (integer weight, row scale, bias) of each, as for `linear`.
    Returns:
        (N, 1), double.
    """
    hidden = _cast(means, xp.float64)
    for index, layer in enumerate(layers):
        if index:
            hidden = xp.clip(hidden, 0.0, None)
        hidden = linear(xp, hidden, *layer)
    return hidden


def linear(xp: ModuleType, x: Array, integer_weight: Array, row_scale: Array, bias: Array) -> Array:
    """Return (integer_weight @ x) * row_scale + bias in double.

    Eight partial sums: lane j adds the products of the inputs j, j + 8, j + 16, .. in this order, from 0.0; then lanes
    4 to 7 are added to lanes 0 to 3, lanes 2 and 3 to 0 and 1, lane 1 to 0. Then a multiplication, then an addition,
    each rounded.

    Args:
        x: (N, inputs), float64.
        integer_weight: (outputs, inputs), whole numbers in float64.
        row_scale, bias: (outputs,), float64.
    Returns:
        (N, outputs), float64.
    """
    outputs = max(1, CACHED_NUMBERS // (len(x) * ADAPTER_LANES))
    sums = [_lane_sums(x[:, None], integer_weight[i : i + outputs]) for i in range(0, len(integer_weight), outputs)]
    return xp.concatenate(sums, 1) * row_scale + bias


def _lane_sums(x: Array, integer_weight: Array) -> Array:
    """Return integer_weight @ x, (N, outputs), summed as `linear` says; x: (N, 1, inputs)."""
    lanes = 0.0 + x[..., :ADAPTER_LANES] * integer_weight[:, :ADAPTER_LANES]  # (N, outputs, lanes)
    for first in range(ADAPTER_LANES, x.shape[-1], ADAPTER_LANES):
        block = slice(first, first + ADAPTER_LANES)
        _add_to_first(lanes, x[..., block] * integer_weight[:, block])
    for half in (4, 2, 1):
        _add_to_first(lanes, lanes[..., half : 2 * half])
    return lanes[..., 0]


def _add_to_first(lanes: Array, others: Array) -> None:
    """Add to as many lanes as there are others, in place: the last block of inputs may be short."""
    first = lanes[..., : others.shape[-1]]
    first += others


def beta(xp: ModuleType, t: Array, output: str) -> Array:
    """Return an adapter's factor from its last layer's output, in the type of `t`.

    Args:
        output: "reciprocal" or "relu".
    """
    if output == "relu":
        return xp.clip(t, PAPER_SMALLEST_BETA, None)
    return xp.where(t >= 0, 1 + t, 1 / (1 - xp.clip(t, None, 0.0)))


# NumPy and torch call these differently.


def _cast(x: Array, dtype: Any) -> Array:
    """Return an array in another type."""
    return x.to(dtype) if hasattr(x, "to") else x.astype(dtype)


def _numbers(xp: ModuleType, numbers: Any, beside: Array) -> Array:
    """Return numbers as an array in double, where `beside` is."""
    device = {"device": beside.device} if hasattr(beside, "to") else {}  # NumPy 1 knows none
    return xp.asarray(numbers, dtype=xp.float64, **device)


def _lines(xp: ModuleType, x: Array, axis: int) -> Sequence[Array]:
    """Return the parts of an array along an axis."""
    return x.unbind(axis) if hasattr(x, "unbind") else xp.moveaxis(x, axis, 0)
