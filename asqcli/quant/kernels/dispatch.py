"""Each pass by its fastest form for the tensors at hand."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from asqcli.quant.kernels import adapted, adapted_cuda, cuda, eager, native
from asqcli.quant.kernels.answers import Answers, Layers
from asqcli.quant.kernels.grid import Grid


def fake_quantize(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """Return the nearest code of each value times the scale; shape and dtype of `x`.

    Args:
        x: any shape, real units.
        scale: the real value of code 1, above 0; (), or broadcastable to `x`.
    """
    return _form(x, scale).fake_quantize(x, scale, grid)


def fake_quantize_backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return the gradients of `x`, by STE and 0 where clipped, and of `scale`, by Eq. 7."""
    form = _form(x, scale)
    return (form if form.takes(grad) else eager).fake_quantize_backward(grad, x, scale, grid)


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


def adapt(x: Tensor, step_size: Tensor, layers: Layers, grid: Grid, *, channels_last: bool) -> Answers:
    """Return what an adapter answers, without rounding; where `adapts`, on a CPU."""
    return adapted.adapt(x, step_size, layers, grid, channels_last=channels_last)


def adapted_fake_quantize_backward(
    grad: Tensor, x: Tensor, step_size: Tensor, layers: Layers, answers: Answers, grid: Grid, *, channels_last: bool
) -> tuple[Tensor, Tensor, Layers]:
    """Return the gradients of `x`, of `step_size` and of the layers."""
    form = adapted_cuda if x.is_cuda else adapted
    return form.adapted_fake_quantize_backward(grad, x, step_size, layers, answers, grid, channels_last=channels_last)


def codes(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return fake-quantized values in units of their scale, whole numbers in a type that holds them."""
    return cuda.codes(x, scale, dtype) if cuda.takes(x, scale) else (x * (1.0 / scale)).round_().to(dtype)


def round_rows(weight: Tensor, qmax: int, smallest: float) -> Tensor:
    """Return each row of `weight`, (rows, columns), in whole steps, `qmax` of which are its largest magnitude.

    Args:
        smallest: step that there may be, for rows of zeros.
    """
    return _form(weight).round_rows(weight, qmax, smallest)


def _form(x: Tensor, scale: Tensor | None = None) -> ModuleType:
    """Return the module with the fastest form for such tensors."""
    return next(form for form in (native, cuda, eager) if form.takes(x, scale))
