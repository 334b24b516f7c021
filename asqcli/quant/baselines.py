"""Activation quantizers of other papers, as autograd functions: PACT and LSQ+."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asqcli.arithmetic.division import divided
from asqcli.quant.gradients import Gradients, from_saved
from asqcli.quant.kernels.eager import inner_product
from asqcli.quant.rounding import quantize


def fake_quantize_pact(x: Tensor, clipping_threshold: Tensor, *, qmin: int, qmax: int) -> Tensor:
    """Round `x` to `qmax` steps of one clipping threshold, staying in float (Choi et al. 2018).

    Gradient of x by STE, zero where clipped; of the threshold the gradients of what is clipped, with the sign of x.

    Args:
        x: activations, (N, C, H, W), real units.
        clipping_threshold: (), real units, above 0; the step size is a `qmax`-th of it.
        qmin: 0, or -qmax for signed input.

    >>> fake_quantize_pact(torch.tensor([0.3, 5.0]), torch.tensor(3.0), qmin=0, qmax=3)
    tensor([0., 3.])
    """
    return _PactFakeQuantize.apply(x, clipping_threshold, qmin, qmax)


class _PactFakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clipping_threshold: Tensor, qmin: int, qmax: int) -> Tensor:
        step_size = divided(clipping_threshold, qmax)
        x_hat = quantize(x, step_size, qmin=qmin, qmax=qmax).mul_(step_size)
        ctx.save_for_backward(x, x_hat, clipping_threshold)
        ctx.bounds = qmin, qmax
        return x_hat

    @staticmethod
    @from_saved
    def backward(ctx: Any, saved: Sequence[Any], grad: Tensor) -> Gradients:
        x, x_hat, clipping_threshold = saved
        scaled = x * (1.0 / divided(clipping_threshold, ctx.bounds[1]))
        grad_x = torch.ops.aten.hardtanh_backward(grad, scaled, *ctx.bounds)
        # Where clipped, x_hat is plus or minus the threshold, or 0 at an unsigned input's lower bound.
        clipped = inner_product(grad - grad_x, x_hat, clipping_threshold.shape)
        return grad_x, clipped / clipping_threshold, None, None


def fake_quantize_offset(
    x: Tensor, step_size: Tensor, offset: Tensor, *, qmax: int, gradient_scale: float = 1.0
) -> Tensor:
    """Round `x` to steps counted from an offset, staying in float (Bhalgat et al. 2020, LSQ+).

    Departs from LSQ+: the offset is rounded to whole steps, `zero_point = round(-offset / step_size)` in 0..qmax, so
    that codes minus zero point are the integers of a plain convolution, and padding's 0 is one of them. Gradients: of x
    by STE, zero where clipped; of step_size Eq. 7, the bounds counted from the offset; of offset 1 where clipped.

    Args:
        x: activations, (N, C, H, W), real units.
        step_size: (), real units, above 0.
        offset: (), real units: what code 0 stands for.
        qmax: largest code; the smallest is 0.

    >>> fake_quantize_offset(torch.tensor([-0.6, 0.9]), torch.tensor(0.5), torch.tensor(-0.5), qmax=3)
    tensor([-0.5000,  1.0000])
    """
    return _OffsetFakeQuantize.apply(x, step_size, offset, qmax, gradient_scale)


def zero_point(step_size: Tensor, offset: Tensor, qmax: int) -> Tensor:
    """Return the code that stands for 0, a whole number in 0..qmax, ()."""
    return (offset * (-1.0 / step_size)).round().clamp(0, qmax)


class _OffsetFakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step_size: Tensor, offset: Tensor, qmax: int, gradient_scale: float) -> Tensor:
        zero = zero_point(step_size, offset, qmax)
        x_hat = (x * (1.0 / step_size)).round_().add_(zero).clamp_(0, qmax).sub_(zero).mul_(step_size)
        ctx.save_for_backward(x, x_hat, step_size, zero)
        ctx.qmax, ctx.gradient_scale = qmax, gradient_scale
        return x_hat

    @staticmethod
    @from_saved
    def backward(ctx: Any, saved: Sequence[Any], grad: Tensor) -> Gradients:
        x, x_hat, step_size, zero = saved
        scaled = x * (1.0 / step_size)
        grad_x = torch.ops.aten.hardtanh_backward(grad, scaled + zero, 0, ctx.qmax)
        shape = step_size.shape
        clipped = (grad - grad_x).sum()
        # code - zero_point - v inside, the bound as a code outside: x_hat / s counts from zero, hence + zero * clipped
        grad_step_size = inner_product(grad, x_hat, shape) / step_size + zero * clipped
        grad_step_size = grad_step_size - inner_product(grad_x, scaled, shape)
        return grad_x, grad_step_size * ctx.gradient_scale, clipped * ctx.gradient_scale, None, None
