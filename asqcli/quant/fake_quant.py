"""Quantize and dequantize in float, as two autograd functions: uniform steps, and level sets.

Each function is one node of the graph, forward and backward, so that either can be fused without touching its users.
Reciprocals are taken first and multiplied by, everywhere: `x / s` and `x * (1 / s)` differ in the last bit, and an
engine that multiplies must see the codes that training saw.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from asqcli.errors import BoundsError
from asqcli.quant.levels import LevelSet

CACHED = 2**16  # values that a processor's second cache holds while they are gone through several times


def gradient_scale(elements: int, qmax: int) -> float:
    """Return 1 / sqrt(elements * qmax), which LSQ multiplies step gradients by.

    Args:
        elements: values that share the step; for activations those of one sample, so that neither the batch size nor
        the
            number of processes changes it.
        qmax: largest code.
    """
    return float(elements * qmax) ** -0.5


def quantize(x: Tensor, step_size: Tensor, *, qmin: int, qmax: int) -> Tensor:
    """Return the codes of `x`, whole numbers in the dtype of `x` (Eqs. 1 and 5), rounding half to even.

    Args:
        x: any shape, real units.
        step_size: broadcastable to `x`; real units, above 0.

    >>> quantize(torch.tensor([0.24, 0.9, -1.0]), torch.tensor(0.25), qmin=0, qmax=3)
    tensor([1., 3., 0.])
    """
    return (x * (1.0 / step_size)).round_().clamp_(qmin, qmax)


def fake_quantize(
    x: Tensor,
    step_size: Tensor,
    beta: Tensor | None = None,
    *,
    qmin: int,
    qmax: int,
    step_gradient_scale: float = 1.0,
) -> Tensor:
    """Round `x` to multiples of `adapted_step_size = step_size * beta`, staying in float.

    Paper: Eqs. 4 and 5; backward by Eqs. 7 to 9. Gradient of x by STE, zero where clipped; of step_size the sum over
    samples of d adapted_step_size * beta, times `step_gradient_scale`; of beta d adapted_step_size * step_size.

    Departs from the paper: dequantizes by the adapted step, whose gradient Eq. 7 is; Eq. 6 multiplies by `step_size`.
    And `-x/s + round(v/s)` of Eq. 7 is read as `-x/s_a + round(x/s_a)`.

    Args:
        x: activations (N, C, H, W) or weights (C_out, C_in, K_h, K_w), real units.
        step_size: () or broadcastable to `x`; real units, above 0.
        beta: None, or (N, 1, 1, 1), one per sample, above 0.
        qmin, qmax: bounds in codes.
    Returns:
        Shape and dtype of `x`; each value is a whole number of adapted steps.
    Raises:
        BoundsError: qmin is not below qmax.

    >>> fake_quantize(torch.tensor([0.24, 0.9]), torch.tensor(0.25), qmin=0, qmax=3)
    tensor([0.2500, 0.7500])
    """
    if qmin >= qmax:
        raise BoundsError(f"qmin {qmin} is not below qmax {qmax}")
    return _UniformFakeQuantize.apply(x, step_size, beta, qmin, qmax, step_gradient_scale)


class _UniformFakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        step_size: Tensor,
        beta: Tensor | None,
        qmin: int,
        qmax: int,
        step_gradient_scale: float,
    ) -> Tensor:
        adapted_step_size = step_size if beta is None else step_size * beta
        x_hat = quantize(x, adapted_step_size, qmin=qmin, qmax=qmax).mul_(adapted_step_size)
        ctx.save_for_backward(x, x_hat, step_size, beta)
        ctx.bounds, ctx.step_gradient_scale = (qmin, qmax), step_gradient_scale
        return x_hat

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]  # one result, one gradient
        x, x_hat, step_size, beta = ctx.saved_tensors
        adapted_step_size = step_size if beta is None else step_size * beta
        reciprocal = 1.0 / adapted_step_size
        scaled = x * reciprocal
        grad_x = torch.ops.aten.hardtanh_backward(grad, scaled, *ctx.bounds)  # grad where qmin < scaled < qmax, else 0
        grad_step_size = grad_beta = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            # Eq. 7 is round(v) - v inside and the bound, which is the code, outside. As two inner products, with x_hat
            # for the codes: no temporary of the size of x.
            codes_part = inner_product(grad, x_hat, adapted_step_size.shape) * reciprocal
            grad_adapted = codes_part - inner_product(grad_x, scaled, adapted_step_size.shape)
            if beta is None:
                grad_step_size = grad_adapted * ctx.step_gradient_scale
            else:
                grad_step_size = (grad_adapted * beta).sum_to_size(step_size.shape) * ctx.step_gradient_scale  # Eq. 8
                grad_beta = grad_adapted * step_size  # Eq. 9
        return grad_x, grad_step_size, grad_beta, None, None, None


def inner_product(a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
    """Return the sums of a * b over what `shape` shares: () for one sum, (N, 1, ..) for one per leading index.

    Not a matrix product: its operands would have to be copied when channels come last in memory.
    """
    return (a * b).sum_to_size(shape)


def quantize_to_levels(weight: Tensor, clipping_threshold: Tensor, level_set: LevelSet) -> tuple[Tensor, Tensor]:
    """Return the nearest levels of `weight` and the weight scale: weight is about levels * scale.

    Nearest by absolute distance on the grid in use, a tie goes to the larger magnitude.

    Args:
        weight: (C_out, ..), real units.
        clipping_threshold: the alpha of Eqs. 3 and 17, broadcastable to `weight`; real units, above 0.
    Returns:
        levels, shape of `weight`, entries of the set's level table in units of the scale; and
        scale = clipping_threshold / largest magnitude, the real value of level 1.
    """
    scale = clipping_threshold / level_set.largest
    return nearest_level(weight * (1.0 / scale), level_set), scale


def nearest_level(scaled: Tensor, level_set: LevelSet) -> Tensor:
    """Return the level nearest to each value; `scaled`: any shape, in units of the level table."""
    if level_set.integer and scaled.device.type == "cpu":
        return _nearest_integer_level(scaled.abs(), level_set).copysign_(scaled)
    boundaries = scaled.new_tensor(level_set.boundaries)
    magnitudes = scaled.new_tensor((0.0, *reversed(level_set.magnitudes)))
    # right=True counts a boundary as passed when met: ties go to the larger magnitude.
    return magnitudes[torch.bucketize(scaled.abs().contiguous(), boundaries, right=True)].copysign(scaled)


def _nearest_integer_level(magnitude: Tensor, level_set: LevelSet) -> Tensor:
    """Return 0 and, for each boundary that is met, the distance to the next level: sums of integers, so exact.

    On a CPU three times as fast as a search, which PyTorch does one value after the other.
    """
    levels = (0.0, *reversed(level_set.magnitudes))
    nearest = magnitude.new_zeros(magnitude.shape)
    for part, sums in zip(magnitude.reshape(-1).split(CACHED), nearest.view(-1).split(CACHED), strict=True):
        met = torch.empty_like(part)
        for boundary, (low, high) in zip(level_set.boundaries, pairwise(levels), strict=True):
            torch.ge(part, boundary, out=met)
            sums.add_(met, alpha=high - low)
    return nearest


def fake_quantize_to_levels(
    weight: Tensor, clipping_threshold: Tensor, level_set: LevelSet, *, threshold_gradient_scale: float = 1.0
) -> Tensor:
    """Replace each weight by the nearest level times the threshold, staying in float.

    Paper: Eqs. 3 and 17; the gradient of the threshold is Eq. 7 with the threshold in the step's place:
    q(w/alpha) - w/alpha inside, sign(w) where clipped, times `threshold_gradient_scale`. Gradient of weight by STE,
    zero where clipped.

    Args:
        weight: (C_out, ..), real units.
        clipping_threshold: broadcastable to `weight`, one value per channel or per tensor; real units, above 0.

    >>> from asqcli.quant.levels import pot_levels
    >>> fake_quantize_to_levels(torch.tensor([0.9, -0.3, 5.0]), torch.tensor(1.0), pot_levels(3))
    tensor([ 1.0000, -0.2500,  1.0000])
    """
    return _LevelFakeQuantize.apply(weight, clipping_threshold, level_set, threshold_gradient_scale)


class _LevelFakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, clipping_threshold: Tensor, level_set: LevelSet, threshold_gradient_scale: float
    ) -> Tensor:
        levels, scale = quantize_to_levels(weight, clipping_threshold, level_set)
        w_hat = levels.mul_(scale)
        ctx.save_for_backward(weight, w_hat, clipping_threshold)
        ctx.largest, ctx.threshold_gradient_scale = level_set.largest, threshold_gradient_scale
        return w_hat

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]  # one result, one gradient
        weight, w_hat, clipping_threshold = ctx.saved_tensors
        scaled = weight * (1.0 / (clipping_threshold / ctx.largest))
        grad_weight = torch.ops.aten.hardtanh_backward(grad, scaled, -ctx.largest, ctx.largest)
        grad_threshold = None
        if ctx.needs_input_grad[1]:
            shape = clipping_threshold.shape
            levels_part = inner_product(grad, w_hat, shape) / clipping_threshold
            residual = levels_part - inner_product(grad_weight, scaled, shape) / ctx.largest
            grad_threshold = residual * ctx.threshold_gradient_scale
        return grad_weight, grad_threshold, None, None
