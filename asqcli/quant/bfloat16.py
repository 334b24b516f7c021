"""Operands and results of a product in bfloat16, with gradients; what lies between products is in bfloat16, too.

Whole numbers up to 256 are exact in bfloat16: codes and levels of up to 8 bits are. A quantized layer multiplies these
and scales the sums, so that its forward loses nothing but the rounding of each sum and of each result. With codes c of
x, levels l of w:

    y = bf16(bf16(c * l) s_x s_w)      dx = bf16(dc) / s_x,  dc = l^T * bf16(dy s_x s_w)      dw = bf16(dl) / s_w

dx is rounded once more where x is bfloat16.

An operand that is not quantized is rounded: c = bf16(x), s_x = 1. The numbers are the same whether a processor
multiplies bfloat16, or float32 numbers that were rounded to it, but for the order in which it adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asqcli.quant.gradients import Gradients, from_saved
from asqcli.quant.kernels import dispatch
from asqcli.quant.kernels.eager import of_values

MULTIPLIED = (torch.bfloat16, torch.float32)  # what a processor may be given rounded numbers as


def as_operand(x: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return what stands for `x` in a product, in bfloat16's precision.

    Gradient of x: that of the operand, rounded to bfloat16, divided by the scale; in the type of `x`.

    Args:
        x: float32, fake-quantized where there is a scale; or bfloat16.
        scale: broadcastable to `x`; the real value of code 1, of which `x` is whole multiples up to 256. It gets no
            gradient: `x` has that.
        dtype: of the result, one of MULTIPLIED.

    >>> as_operand(torch.tensor([0.25, -0.75]), torch.tensor(0.25), torch.float32)
    tensor([ 1., -3.])
    """
    return _Operand.apply(x, None if scale is None else scale.detach(), dtype)


def as_result(product: Tensor, of_samples: Tensor | None = None, of_channels: Tensor | None = None) -> Tensor:
    """Return a product of operands rounded to bfloat16, times its scales, in bfloat16. Its gradient is rounded, too.

    Args:
        of_samples, of_channels: as for `dispatch.scaled`, or None; they get no gradient.
    """
    if of_samples is None and of_channels is None:
        return product.to(torch.bfloat16)
    scales = (None if scale is None else scale.detach() for scale in (of_samples, of_channels))
    return _Result.apply(product, *scales)


class _Operand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(scale)
        ctx.dtype = x.dtype
        return x.to(torch.bfloat16).to(dtype) if scale is None else dispatch.whole_numbers(x, scale, dtype)

    @staticmethod
    @from_saved
    def backward(ctx: Any, saved: Sequence[Any], grad: Tensor) -> Gradients:
        [scale] = saved
        grad = grad.to(torch.bfloat16) if scale is None else of_values(grad, scale)
        return grad.to(ctx.dtype), None, None


class _Result(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, product: Tensor, of_samples: Tensor | None, of_channels: Tensor | None) -> Tensor:
        ctx.save_for_backward(of_samples, of_channels)
        ctx.dtype = product.dtype
        return _times(product, of_samples, of_channels)

    @staticmethod
    @from_saved
    def backward(ctx: Any, saved: Sequence[Any], grad: Tensor) -> Gradients:
        of_samples, of_channels = saved
        return _times(grad, of_samples, of_channels).to(ctx.dtype), None, None


def _times(x: Tensor, of_samples: Tensor | None, of_channels: Tensor | None) -> Tensor:
    """Return `x`, rounded, times its scales, rounded."""
    x = x.to(torch.bfloat16)
    if of_samples is not None and of_channels is not None:
        return dispatch.scaled(x, of_samples, of_channels)
    [scale] = (scale for scale in (of_samples, of_channels) if scale is not None)
    return (x.float() * scale).to(torch.bfloat16)
