"""Starting values of step sizes and clipping thresholds.

Two ways: LSQ's 2 * mean|x| / sqrt(qmax), and the least squared error over a range of candidates. A good start decides
short runs at 3 bits and below.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# A step or threshold is projected back to at least this after each update; real units. Small enough never to bind on a
# trained network, large enough for its reciprocal to be finite.
SMALLEST_STEP = 1e-8
CANDIDATES = 80


def lsq_start(x: Tensor, qmax: int) -> Tensor:
    """Return LSQ's starting step size of each row (Esser et al. 2020).

    Args:
        x: (rows, elements), real units.
        qmax: largest code.
    Returns:
        (rows,), real units, above 0.

    >>> lsq_start(torch.tensor([[1.0, -3.0]]), qmax=4)
    tensor([2.])
    """
    return (2 * x.abs().mean(dim=1) / math.sqrt(qmax)).clamp_(min=SMALLEST_STEP)


def least_squares_start(x: Tensor, fake_quantize: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the clipping threshold of each row that leaves the least squared error.

    Args:
        x: (rows, elements), real units.
        fake_quantize: (x, clipping threshold (rows, 1)) to quantized values, same shape as x.
    Returns:
        (rows,), real units, above 0: one of 80 fractions of each row's largest magnitude.
    """
    largest = x.abs().amax(dim=1, keepdim=True).clamp_(min=SMALLEST_STEP)  # (rows, 1)
    best_error = torch.full_like(largest, torch.inf)
    best = largest.clone()
    for k in range(1, CANDIDATES + 1):
        threshold = largest * (k / CANDIDATES)
        error = (fake_quantize(x, threshold) - x).square_().sum(dim=1, keepdim=True)
        better = error < best_error
        best = torch.where(better, threshold, best)
        best_error = torch.where(better, error, best_error)
    return best.squeeze(1)
