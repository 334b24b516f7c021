"""Division of tensors by numbers, the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor


def divided(x: Tensor, number: float) -> Tensor:
    """Return `x / number`, rounded once."""
    return x / as_divisor(x, number)


def as_divisor(x: Tensor, number: float) -> Tensor | float:
    """Return what to divide `x` by: on a GPU PyTorch multiplies by a number's reciprocal, which rounds twice."""
    return torch.full((), number, dtype=x.dtype, device=x.device) if x.is_cuda else number
