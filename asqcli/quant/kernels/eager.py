"""The passes as operations of PyTorch, for any device, type and layout."""

from __future__ import annotations

import torch
from torch import Tensor

from asqcli.arithmetic.division import divided
from asqcli.quant.kernels.grid import Grid, UniformGrid, bounds
from asqcli.quant.rounding import nearest_level, quantize


def takes(_x: Tensor, _scale: Tensor | None = None) -> bool:
    """As the other forms': it takes all."""
    return True


def fake_quantize(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """As `dispatch.fake_quantize`."""
    return _rounded(widened(x), scale, grid).to(x.dtype)


def fake_quantize_backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """As `dispatch.fake_quantize_backward`."""
    v, grad = widened(x) * (1.0 / scale), widened(grad)
    grad_x = torch.ops.aten.hardtanh_backward(grad, v, *bounds(grid))  # grad where v is inside, else 0
    inside = inner_product(grad_x, v, scale.shape)
    return grad_x.to(x.dtype), inner_product(grad, _codes(v, grid), scale.shape) - inside


def codes(x: Tensor, scale: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """As `dispatch.codes`."""
    return whole_numbers(_rounded(widened(x), scale, grid), scale, dtype)


def codes_backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """As `dispatch.codes_backward`."""
    return fake_quantize_backward(of_values(grad, scale), x, scale, grid)


def whole_numbers(x_hat: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """As `dispatch.whole_numbers`."""
    return (x_hat * (1.0 / scale)).round_().to(dtype)


def of_values(grad: Tensor, scale: Tensor) -> Tensor:
    """Return the gradient of fake-quantized values by that of their codes, which is rounded to bfloat16."""
    return grad.to(torch.bfloat16).float().div_(scale)


def widened(x: Tensor) -> Tensor:
    """Return `x` in float32 where it is bfloat16: all between that is rounded to it is not."""
    return x.float() if x.dtype == torch.bfloat16 else x


def round_rows(weight: Tensor, qmax: int, smallest: float) -> Tensor:
    """As `dispatch.round_rows`."""
    scale = row_scale(weight, qmax, smallest)
    return quantize(weight, scale, qmin=-qmax, qmax=qmax).mul_(scale)


def row_scale(weight: Tensor, qmax: int, smallest: float) -> Tensor:
    """Return the step of each row, (rows, 1), without a gradient."""
    return divided(weight.detach().abs().amax(dim=1, keepdim=True), qmax).clamp(min=smallest)


def inner_product(a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
    """Return the sums of a * b over what `shape` shares: () for one sum, (N, 1, ..) for one per leading index.

    Not a matrix product: its operands would have to be copied when channels come last in memory.
    """
    products = a * b
    one_each = len(shape) == 4 and shape.numel() == shape[0] == len(products)
    if one_each and products.is_contiguous(memory_format=torch.channels_last):
        # In the order of memory: over channels that come last PyTorch sums ten times as long.
        return products.permute(0, 2, 3, 1).flatten(1).sum(dim=1).reshape(shape)
    return products.sum_to_size(shape)


def _rounded(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    return _codes(x * (1.0 / scale), grid).mul_(scale)


def _codes(v: Tensor, grid: Grid) -> Tensor:
    """Return the nearest code or level of each value; `v` may be overwritten."""
    return v.round_().clamp_(grid.qmin, grid.qmax) if isinstance(grid, UniformGrid) else nearest_level(v, grid)
