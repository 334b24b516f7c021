"""Each pass by its fastest form for the tensors at hand."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from asqcli.quant.kernels import adapted, adapted_cuda, cuda, eager, native
from asqcli.quant.kernels.answers import Answers, Layers
from asqcli.quant.kernels.grid import Grid, UniformGrid


def fake_quantize(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """Return the nearest code of each value times the scale; shape and dtype of `x`.

    Args:
        x: any shape, real units. Here and below it may be bfloat16, and so is its gradient then.
        scale: the real value of code 1, above 0; (), or broadcastable to `x`.
    """
    return _form(x, scale).fake_quantize(x, scale, grid)


def fake_quantize_backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return the gradients of `x`, by STE and 0 where clipped, and of `scale`, by Eq. 7."""
    form, grad = _form(x, scale), eager.widened(grad)
    return (form if form.takes(grad) else eager).fake_quantize_backward(grad, x, scale, grid)


def codes(x: Tensor, scale: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """Return the nearest code of each value: of a grid of whole numbers, in a type that holds them."""
    return _form(x, scale).codes(x, scale, grid, dtype)


def codes_backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return `fake_quantize_backward` by the gradient of the codes, which is rounded to bfloat16."""
    form = _form(x, scale) if grad.device == x.device and type(grad) is Tensor else eager
    return form.codes_backward(grad, x, scale, grid)


def whole_numbers(x_hat: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return fake-quantized values in units of their scale, whole numbers up to 256, in a type that holds them."""
    if cuda.takes(x_hat, scale):
        return cuda.codes(x_hat, scale, UniformGrid(-256, 256), dtype)
    return eager.whole_numbers(x_hat, scale, dtype)


def scaled(x: Tensor, of_samples: Tensor, of_channels: Tensor) -> Tensor:
    """Return `x` times the product of both scales, in float32, and rounded again.

    Args:
        x: bfloat16.
        of_samples: (), or (N, 1, .., 1).
        of_channels: (C, 1, 1) or (C,), as they broadcast to `x`; or one for all.
    """
    for form in (native, cuda):
        if form.can_scale(x, of_samples, of_channels):
            return form.scaled(x, of_samples, of_channels)
    return (x.float() * (of_samples * of_channels)).to(torch.bfloat16)


def adapts(x: Tensor, step_size: Tensor) -> bool:
    """Is there a form for such tensors that adapts and rounds in one?"""
    return native.takes(x, step_size) or (cuda.takes(x, step_size) and adapted_cuda.works(x.device))


def adapted_fake_quantize(
    x: Tensor, step_size: Tensor, layers: Layers, grid: Grid, *, channels_last: bool
) -> tuple[Tensor, Answers]:
    """Return the fake-quantized `x`, and what its adapter answered; where `adapts`.

    Args:
        x: (N, C, H, W), or (N, .., C) when `channels_last`.
        step_size: ().
    """
    form = adapted_cuda if x.is_cuda else adapted
    return form.adapted_fake_quantize(x, step_size, layers, grid, channels_last=channels_last)


def adapted_codes(
    x: Tensor, step_size: Tensor, layers: Layers, grid: Grid, dtype: torch.dtype, *, channels_last: bool
) -> tuple[Tensor, Answers]:
    """Return the codes of `adapted_fake_quantize` in a type that holds them, and what the adapter answered."""
    form = adapted_cuda if x.is_cuda else adapted
    return form.adapted_codes(x, step_size, layers, grid, dtype, channels_last=channels_last)


def adapt(x: Tensor, step_size: Tensor, layers: Layers, grid: Grid, *, channels_last: bool) -> Answers:
    """Return what an adapter answers, without rounding; where `adapts`, on a CPU."""
    return adapted.adapt(x, step_size, layers, grid, channels_last=channels_last)


def adapted_fake_quantize_backward(
    grad: Tensor, x: Tensor, step_size: Tensor, layers: Layers, answers: Answers, grid: Grid,
    *, channels_last: bool, of_codes: bool,
) -> tuple[Tensor, Tensor, Layers]:  # fmt: skip
    """Return the gradients of `x`, of `step_size` and of the layers.

    Args:
        of_codes: is it the gradient of `adapted_codes`, which is rounded to bfloat16?
    """
    form, grad = adapted_cuda if x.is_cuda else adapted, grad if of_codes else eager.widened(grad)
    return form.adapted_fake_quantize_backward(
        grad, x, step_size, layers, answers, grid, channels_last=channels_last, of_codes=of_codes
    )


def round_rows(weight: Tensor, qmax: int, smallest: float) -> Tensor:
    """Return each row of `weight`, (rows, columns), in whole steps, `qmax` of which are its largest magnitude.

    Args:
        smallest: step that there may be, for rows of zeros.
    """
    return _form(weight).round_rows(weight, qmax, smallest)


def _form(x: Tensor, scale: Tensor | None = None) -> ModuleType:
    """Return the module with the fastest form for such tensors."""
    return next(form for form in (native, cuda, eager) if form.takes(x, scale))
