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


def operand_values(x: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return `as_operand`, without a gradient."""
    return (x.to(torch.bfloat16) if scale is None else dispatch.codes(x, scale, torch.bfloat16)).to(dtype)


def as_result(product: Tensor) -> Tensor:
    """Return a product of operands rounded to bfloat16, in float32. Its gradient is rounded, too."""
    return _Result.apply(product)


class _Operand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(scale)
        return operand_values(x, scale, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]  # one result, one gradient
        [scale] = ctx.saved_tensors
        grad = grad.to(torch.bfloat16).float()
        return grad if scale is None else grad.div_(scale), None, None


class _Result(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, product: Tensor) -> Tensor:
        ctx.dtype = product.dtype
        return product.to(torch.bfloat16).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # one result, one gradient
        return grad.to(torch.bfloat16).to(ctx.dtype)
