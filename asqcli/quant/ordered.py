"""Sums whose order is fixed: the same bits for every batch size, library and language.

float32 matrix products change with the batch, and library reductions with the processor. What the adapters and average
pools need is small, so it is added in double, in an order written here, and rounded once at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LANES = 8


def ordered_mean(x: Tensor) -> Tensor:
    """Return the mean over all dimensions between the first and the last, in float32.

    Sums in double: first along the last but one dimension, element after element, then along the one before it, and
    so on; then divides, then rounds once.

    Args:
        x: channels last, (N, H, W, C) or (N, length, C) or (N, C).
    Returns:
        (N, C), float32.
    """
    count = 1
    total = x
    while total.dim() > 2:
        count *= total.shape[-2]
        running = torch.zeros_like(total[..., 0, :], dtype=torch.float64)
        for element in total.unbind(-2):
            running += element
        total = running
    return (total.double() / count).float()


def ordered_linear(x: Tensor, integer_weight: Tensor, row_scale: Tensor, bias: Tensor) -> Tensor:
    """Return (integer_weight @ x) * row_scale + bias in double.

    Eight partial sums: lane j adds the products of the inputs j, j + 8, j + 16, .. in this order; then lanes 4 to 7
    are added to
    lanes 0 to 3, lanes 2 and 3 to 0 and 1, lane 1 to 0. Then a multiplication, then an addition, each rounded.

    Args:
        x: (N, inputs), float64.
        integer_weight: (outputs, inputs), whole numbers in float64.
        row_scale, bias: (outputs,), float64.
    Returns:
        (N, outputs), float64.
    """
    padding = -x.shape[1] % LANES
    x_blocks = F.pad(x, (0, padding)).unflatten(1, (-1, LANES)).unsqueeze(1)  # (N, 1, blocks, lanes)
    weight_blocks = F.pad(integer_weight, (0, padding)).unflatten(1, (-1, LANES))  # (outputs, blocks, lanes)
    lanes = x.new_zeros(x.shape[0], integer_weight.shape[0], LANES)
    for block in range(weight_blocks.shape[1]):
        lanes += x_blocks[:, :, block] * weight_blocks[:, block]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes.squeeze(-1) * row_scale + bias
