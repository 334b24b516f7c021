"""Each pass by its fastest form for the tensors at hand."""

from __future__ import annotations

from torch import Tensor

from asqcli.quant.kernels import eager, native
from asqcli.quant.kernels.grid import Grid


def fake_quantize(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """Return the nearest code of each value times the scale; shape and dtype of `x`.

    Args:
        x: any shape, real units.
        scale: the real value of code 1, above 0; (), or broadcastable to `x`.
    """
    run = native if native.takes(x, scale) else eager
    return run.fake_quantize(x, scale, grid)


def fake_quantize_backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return the gradients of `x`, by STE and 0 where clipped, and of `scale`, by Eq. 7."""
    run = native if native.takes(x, scale) and native.takes(grad) else eager
    return run.fake_quantize_backward(grad, x, scale, grid)


def round_rows(weight: Tensor, qmax: int, smallest: float) -> Tensor:
    """Return each row of `weight`, (rows, columns), in whole steps, `qmax` of which are its largest magnitude.

    Args:
        smallest: step that there may be, for rows of zeros.
    """
    return (native if native.takes(weight) else eager).round_rows(weight, qmax, smallest)
