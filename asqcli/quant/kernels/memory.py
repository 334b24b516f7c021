"""How a tensor lies in memory, and which of its values share a scale: what passes of our own ask first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ROUNDED = torch.float32, torch.bfloat16  # types of what passes round; all else is float32


def is_plain(tensor: Tensor, *dtypes: torch.dtype) -> bool:
    """Does a tensor hold values of a type, else float32, in its device's memory? One of a subclass may hold none."""
    return tensor.dtype in (dtypes or (torch.float32,)) and type(tensor) in (Tensor, nn.Parameter)


def shares_by_groups(x: Tensor, scale: Tensor) -> bool:
    """Is it one scale for all values, or one for each index of the first dimension?"""
    if (count := scale.numel()) == 1:
        return True
    return scale.dim() == x.dim() > 0 and scale.shape[0] == count == x.shape[0]


def groups(x: Tensor) -> int:
    """Return the size of the first dimension."""
    return x.shape[0] if x.dim() else 1  # `len` is slow


def dense(x: Tensor) -> Tensor:
    """Return `x`, or a copy of it that has no gaps in memory."""
    if is_dense(x):
        return x
    last = x.dim() == 4 and x.stride(1) == 1  # a part of the channels, of which the rest lies between
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def in_order(x: Tensor, channels_last: bool) -> Tensor:
    """Return `x`, or a copy of it, as adapters take it: dense, and where channels are its last dimension contiguous."""
    return x.contiguous() if channels_last else dense(x)


def laid_out_as(x: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient of what was made from `x`, in the order of memory of `x`."""
    return grad if grad.stride() == x.stride() else torch.empty_like(x, dtype=grad.dtype).copy_(grad)


def is_dense(x: Tensor) -> bool:
    """Do all values of `x` lie one after the other in memory, those of each index of the first dimension together?"""
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
