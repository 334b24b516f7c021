"""Sums and functions whose arithmetic is fixed: the same bits for every batch size, library and language.

float32 matrix products change with the batch, library reductions with the processor, and `exp` with the library. What
lies between the quantized layers is small, so it is computed in double, in an order written here, by additions,
multiplications and divisions alone, and rounded once at the end. The integer engine holds the same in NumPy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from asqcli import fixed_arithmetic as fixed


def ordered_mean(x: Tensor) -> Tensor:
    """Return the mean over all dimensions between the first and the last, in float32.

    Sums in double: first along the last but one dimension, element after element, then along the one before it, and
    so on; then divides, then rounds once.

    Args:
        x: channels last, (N, H, W, C) or (N, length, C) or (N, C).
    Returns:
        (N, C), float32.
    """
    count = math.prod(x.shape[1:-1])
    total = x
    while total.dim() > 2:
        total = _ordered_sum(total.unbind(-2))
    return (total.double() / count).float()


def ordered_avg_pool(
    x: Tensor,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    *,
    count_include_pad: bool = True,
) -> Tensor:
    """Return averages over windows, (N, C, H, W) to (N, C, H_out, W_out), float32.

    Each row of a window is summed from left to right and the rows from top to bottom, in double; then a division by the
    number of values, then one rounding.

    Args:
        count_include_pad: do the zeros of the padding count as values?
    """
    return (
        _pool(x.double(), kernel_size, stride, padding)
        .div_(_window_sizes(x, kernel_size, stride, padding, count_include_pad))
        .float()
    )


def _window_sizes(x: Tensor, kernel_size, stride, padding, count_include_pad: bool) -> Tensor:
    """Return the number of values in each window, () or (H_out, W_out), double."""
    if count_include_pad or padding == (0, 0):
        return x.new_tensor(math.prod(kernel_size), dtype=torch.float64)
    return _pool(x.new_ones(1, 1, *x.shape[2:], dtype=torch.float64), kernel_size, stride, padding)[0, 0]


def _pool(x: Tensor, kernel_size, stride, padding) -> Tensor:
    """Return the sums over windows of (N, C, H, W) in double."""
    (top, left), (window_h, window_w) = padding, kernel_size
    x = F.pad(x, (left, left, top, top))
    across = [(x.shape[d] - k) // s * s + 1 for d, k, s in zip((2, 3), kernel_size, stride, strict=True)]
    x = _ordered_sum([x[:, :, :, j : j + across[1] : stride[1]] for j in range(window_w)])
    return _ordered_sum([x[:, :, i : i + across[0] : stride[0]] for i in range(window_h)])


def ordered_adaptive_avg_pool(x: Tensor, output_size: tuple[int, int]) -> Tensor:
    """Return averages over `output_size` windows that cover the image, (N, C, H, W) to (N, C, *output_size), float32.

    A window's values (see `adaptive_windows`) are added as in `ordered_avg_pool`.
    """
    heights, widths = (fixed.adaptive_windows(n, o) for n, o in zip(x.shape[2:], output_size, strict=True))
    counts = x.new_tensor(
        [[(bottom - top) * (right - left) for left, right in widths] for top, bottom in heights], dtype=torch.float64
    )
    x = x.double()
    for dim, windows in ((3, widths), (2, heights)):
        x = torch.stack([_ordered_sum(x.narrow(dim, a, b - a).unbind(dim)) for a, b in windows], dim=dim)
    return x.div_(counts).float()


def ordered_sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)) in float32, of the shape of `x`.

    In double, with e = exp(-|x|) by Horner's rule on the Taylor series to the 12th power after a division by powers of
    two; then e / (1 + e) below zero and 1 / (1 + e) from zero on, rounded once. Off by less than one unit in the last
    place of float32, and equal everywhere, which library functions are not.
    """
    x = x.double()
    e = _exp_of_negative(x.abs().clamp(max=fixed.EXP_LARGEST))
    return (torch.where(x < 0, e, 1.0) / (1.0 + e)).float()


def _exp_of_negative(y: Tensor) -> Tensor:
    """Return exp(-y) for y in 0..700, double."""
    k = (y * fixed.LOG2_E).round()
    r = (k * fixed.LN2_HIGH - y) + k * fixed.LN2_LOW  # exp(-y) = exp(r) / 2^k, |r| <= ln(2) / 2
    power = torch.full_like(r, fixed.EXP_COEFFICIENTS[0])
    for coefficient in fixed.EXP_COEFFICIENTS[1:]:
        power = power * r + coefficient
    return power * ((1023 - k.long()) << 52).view(torch.float64)  # the bits of 2^-k


def ordered_linear(x: Tensor, integer_weight: Tensor, row_scale: Tensor, bias: Tensor) -> Tensor:
    """Return (integer_weight @ x) * row_scale + bias in double.

    Eight partial sums: lane j adds the products of the inputs j, j + 8, j + 16, .. in this order; then lanes 4 to 7
    are added to lanes 0 to 3, lanes 2 and 3 to 0 and 1, lane 1 to 0. Then a multiplication, then an addition, each
    rounded.

    Args:
        x: (N, inputs), float64.
        integer_weight: (outputs, inputs), whole numbers in float64.
        row_scale, bias: (outputs,), float64.
    Returns:
        (N, outputs), float64.
    """
    padding = -x.shape[1] % fixed.LANES
    x_blocks = F.pad(x, (0, padding)).unflatten(1, (-1, fixed.LANES)).unsqueeze(1)  # (N, 1, blocks, lanes)
    weight_blocks = F.pad(integer_weight, (0, padding)).unflatten(1, (-1, fixed.LANES))  # (outputs, blocks, lanes)
    lanes = x.new_zeros(x.shape[0], integer_weight.shape[0], fixed.LANES)
    for block in range(weight_blocks.shape[1]):
        lanes += x_blocks[:, :, block] * weight_blocks[:, block]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes.squeeze(-1) * row_scale + bias


def _ordered_sum(terms) -> Tensor:
    """Return the sum of tensors of one shape in double, added from the first to the last."""
    running = torch.zeros_like(terms[0], dtype=torch.float64)
    for term in terms:
        running += term
    return running
