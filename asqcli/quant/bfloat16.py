"""Operands and results of a product in bfloat16, with gradients; the rest of training stays in float32.

Whole numbers up to 256 are exact in bfloat16: codes and levels of up to 8 bits are. A quantized layer multiplies these
and scales the sums, so that its forward loses nothing but one rounding of each sum. With codes c of x, levels l of w:

    y = bf16(c * l) s_x s_w      dx = bf16(dc) / s_x,  dc = l^T * bf16(dy s_x s_w)      dw = bf16(dl) / s_w,  likewise

An operand that is not quantized is rounded: c = bf16(x), s_x = 1. The numbers are the same whether a processor
multiplies bfloat16, or float32 numbers that were rounded to it, but for the order in which it adds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from asqcli.quant.kernels import dispatch
from asqcli.quant.kernels.eager import of_values

MULTIPLIED = (torch.bfloat16, torch.float32)  # what a processor may be given rounded numbers as


def as_operand(x: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return what stands for `x` in a product, in bfloat16's precision.

    Gradient of x: that of the operand, rounded to bfloat16, divided by the scale.

    Args:
        x: float32, fake-quantized where there is a scale.
        scale: broadcastable to `x`; the real value of code 1, of which `x` is whole multiples up to 256. It gets no
            gradient: `x` has that.
        dtype: of the result, one of MULTIPLIED.

    >>> as_operand(torch.tensor([0.25, -0.75]), torch.tensor(0.25), torch.float32)
    tensor([ 1., -3.])
    """
    return _Operand.apply(x, None if scale is None else scale.detach(), dtype)


def as_result(product: Tensor, of_samples: Tensor | None = None, of_channels: Tensor | None = None) -> Tensor:
    """Return a product of operands rounded to bfloat16, times its scales, in float32. Its gradient is rounded, too.

    Args:
        of_samples, of_channels: as for `dispatch.scaled`, or None; they get no gradient.
    """
    scales = (None if scale is None else scale.detach() for scale in (of_samples, of_channels))
    return _Result.apply(product, *scales)


class _Operand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(scale)
        return x.to(torch.bfloat16).to(dtype) if scale is None else dispatch.whole_numbers(x, scale, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]  # one result, one gradient
        [scale] = ctx.saved_tensors
        return grad.to(torch.bfloat16).float() if scale is None else of_values(grad, scale), None, None


class _Result(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, product: Tensor, of_samples: Tensor | None, of_channels: Tensor | None) -> Tensor:
        ctx.save_for_backward(of_samples, of_channels)
        ctx.dtype = product.dtype
        return _times(product.to(torch.bfloat16), of_samples, of_channels, torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]  # one result, one gradient
        of_samples, of_channels = ctx.saved_tensors
        return _times(grad, of_samples, of_channels, torch.bfloat16).to(ctx.dtype), None, None


def _times(x: Tensor, of_samples: Tensor | None, of_channels: Tensor | None, dtype: torch.dtype) -> Tensor:
    if of_samples is not None and of_channels is not None:
        return dispatch.scaled(x, of_samples, of_channels, dtype)
    scale = of_channels if of_samples is None else of_samples
    return (x if scale is None else x.float() * scale).to(dtype)
