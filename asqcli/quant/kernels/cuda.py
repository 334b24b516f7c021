"""The passes on a GPU, by Triton, for float32 tensors that lie dense in its memory.

PyTorch's operations take five kernels forward and a dozen backward, each of which goes through memory and waits for
the one before; here it is one each, and one more to add up what the blocks have summed. Triton comes with PyTorch
where there is CUDA, and needs a C compiler when a kernel is first used; without either, `eager` serves.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from asqcli.quant.kernels import eager
from asqcli.quant.kernels.grid import Grid, UniformGrid, bounds
from asqcli.quant.kernels.memory import dense, groups, is_plain, laid_out_as, shares_by_groups
from asqcli.quant.levels import LevelSet, post_levels
from asqcli.quant.rounding import level_tables

BLOCK = 1024  # values of a program
MOST_VALUES, MOST_GROUPS = 1 << 31, 65_535  # 32-bit places; the second axis of a grid of programs


def takes(x: Tensor, scale: Tensor | None = None) -> bool:
    """Can the passes work on such tensors, by a scale for all values or one for each index of the first dimension?"""
    if not (x.is_cuda and is_plain(x) and 0 < x.numel() < MOST_VALUES and works(x.device)):
        return False
    if scale is not None and scale.numel() > MOST_GROUPS:
        return False
    return scale is None or (scale.device == x.device and is_plain(scale) and shares_by_groups(x, scale))


def fake_quantize(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """As `dispatch.fake_quantize`."""
    x, scale = dense(x), scale.contiguous()
    x_hat = torch.empty_like(x)
    count, size = _divided(x, scale)
    low, high, levels = *bounds(grid), _level_tables(grid, x)
    source().forward[_blocks(size), count](
        x, scale, x_hat, *levels, size, float(low), float(high), int(count > 1), COUNT=_levels(grid), BLOCK=BLOCK
    )
    return x_hat


def fake_quantize_backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """As `dispatch.fake_quantize_backward`."""
    grad_x, sums = fake_quantize_backward_in_blocks(grad, x, scale, grid)
    return grad_x, sums.sum(dim=1).reshape(scale.shape)


def fake_quantize_backward_in_blocks(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return the gradient of `x`, and that of each scale in parts that are still to be added up, (scales, blocks)."""
    x, scale = dense(x), scale.contiguous()
    grad_x = torch.empty_like(x)
    grad = laid_out_as(x, grad)
    count, size = _divided(x, scale)
    sums = x.new_empty(count, _blocks(size))
    low, high, levels = *bounds(grid), _level_tables(grid, x)
    source().backward[_blocks(size), count](
        grad, x, scale, grad_x, sums, *levels, size, float(low), float(high), int(count > 1),
        COUNT=_levels(grid), BLOCK=BLOCK,
    )  # fmt: skip
    return grad_x, sums


def codes(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return fake-quantized values in units of their scale, whole numbers in a type that holds them."""
    x, scale = dense(x), scale.contiguous()
    whole = torch.empty_like(x, dtype=dtype)
    count, size = _divided(x, scale)
    source().codes[_blocks(size), count](x, scale, whole, size, int(count > 1), BLOCK=BLOCK)
    return whole


def round_rows(weight: Tensor, qmax: int, smallest: float) -> Tensor:
    """As `dispatch.round_rows`."""
    weight = weight.contiguous()
    rounded = torch.empty_like(weight)
    rows, columns = weight.shape
    block = 1 << (columns - 1).bit_length()
    source().round_rows[rows,](weight, rounded, columns, float(qmax), smallest, BLOCK=block)
    return rounded


@cache
def works(device: torch.device) -> bool:
    """Does Triton work on a device, and give what PyTorch's operations give?"""
    x = torch.linspace(-9.3, 9.4, 3 * BLOCK, device=device).reshape(3, -1)
    scale = torch.tensor([[0.7], [1.1], [2.3]], device=device)
    try:
        for grid in (UniformGrid(-8, 7), post_levels(4)):
            x_hat = fake_quantize(x, scale, grid)
            if not torch.equal(x_hat, eager.fake_quantize(x, scale, grid)):
                return False
            forms = fake_quantize_backward, eager.fake_quantize_backward
            found, expected = (form(x, x, scale, grid) for form in forms)
            if not (torch.equal(found[0], expected[0]) and torch.allclose(found[1], expected[1], rtol=1e-3)):
                return False
            whole = codes(x_hat, scale, torch.bfloat16)
            if not torch.equal(whole.float(), (x_hat * (1.0 / scale)).round()):
                return False
        return torch.equal(round_rows(x, 127, 1e-30), eager.round_rows(x, 127, 1e-30))
    except Exception:  # Triton raises whatever its compilers, or ours, raise
        return False


def _divided(x: Tensor, scale: Tensor) -> tuple[int, int]:
    """Return how many groups of values share a scale, and their size."""
    count = groups(x) if scale.numel() > 1 else 1
    return count, x.numel() // count


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _levels(grid: Grid) -> int:
    return len(grid.magnitudes) if isinstance(grid, LevelSet) else 0


def _level_tables(grid: Grid, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (boundaries, magnitudes), smallest first; of a uniform grid anything."""
    if isinstance(grid, UniformGrid):
        return x, x
    boundaries, magnitudes = level_tables(grid, x.dtype, x.device)
    return boundaries, magnitudes[1:]


@cache
def source() -> Any:
    """Return the kernels; importing Triton takes half a second, and it may be missing."""
    from asqcli.quant.kernels import triton_source

    return triton_source
