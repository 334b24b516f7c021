"""Division of tensors by numbers, the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor


def divided(x: Tensor, number: float) -> Tensor:
    """Return `x / number`, rounded once. On a GPU PyTorch multiplies by a number's reciprocal, which rounds twice."""
    return x / (torch.full((), number, dtype=x.dtype, device=x.device) if x.is_cuda else number)
