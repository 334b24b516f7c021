"""The passes on a GPU, by Triton, for tensors that lie dense in its memory, of the types that `native` takes, too.

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
from asqcli.quant.kernels.memory import ROUNDED, dense, groups, is_dense, is_plain, laid_out_as, shares_by_groups
from asqcli.quant.levels import LevelSet, post_levels
from asqcli.quant.rounding import level_tables

BLOCK = 1024  # values of a program
MOST_VALUES, MOST_GROUPS = 1 << 31, 65_535  # 32-bit places; the second axis of a grid of programs


def takes(x: Tensor, scale: Tensor | None = None) -> bool:
    """As `native.takes`."""
    if not (x.is_cuda and 0 < x.numel() < MOST_VALUES and works(x.device)):
        return False
    if scale is None:
        return is_plain(x)
    if not (is_plain(x, *ROUNDED) and is_plain(scale)) or scale.device != x.device or scale.numel() > MOST_GROUPS:
        return False
    return shares_by_groups(x, scale)


def fake_quantize(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """As `dispatch.fake_quantize`."""
    return _rounded(x, scale, grid, None)


def codes(x: Tensor, scale: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """As `dispatch.codes`."""
    return _rounded(x, scale, grid, dtype)


def _rounded(x: Tensor, scale: Tensor, grid: Grid, codes_in: torch.dtype | None) -> Tensor:
    x, scale = dense(x), scale.contiguous()
    rounded = torch.empty_like(x, dtype=codes_in)
    count, size = _divided(x, scale)
    low, high, levels = *bounds(grid), _level_tables(grid, scale)
    source().forward[_blocks(size), count](
        x, scale, rounded, *levels, size, float(low), float(high), int(count > 1),
        COUNT=_levels(grid), IN_CODES=codes_in is not None, BLOCK=BLOCK,
    )  # fmt: skip
    return rounded


def fake_quantize_backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """As `dispatch.fake_quantize_backward`."""
    return _backward(grad, x, scale, grid, of_codes=False)


def codes_backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """As `dispatch.codes_backward`."""
    return _backward(grad, x, scale, grid, of_codes=True)


def _backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid, *, of_codes: bool) -> tuple[Tensor, Tensor]:
    x = dense(x)
    grad_x = torch.empty_like(x)
    sums = _in_blocks(taken_gradient(grad, x, of_codes=of_codes), x, scale, grid, grad_x, of_codes=of_codes)
    return grad_x, sums.sum(dim=1).reshape(scale.shape)


def gradients_of_scales(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid, *, of_codes: bool) -> Tensor:
    """Return the gradient of each scale in parts that are still to be added up, (scales, blocks).

    Args:
        grad: a `taken_gradient`.
        x: dense.
    """
    return _in_blocks(grad, x, scale, grid, None, of_codes=of_codes)


def gradient_of_adapted(
    grad: Tensor, x: Tensor, scale: Tensor, grid: Grid, grad_pixel: Tensor, dimension: int, *, of_codes: bool
) -> Tensor:
    """Return the gradient of `x`, by STE and by what each value of a sample's channel gets from its adapter.

    Args:
        grad: a `taken_gradient`.
        x: dense.
        scale: (N, 1, .., 1).
        grad_pixel: (N, C).
        dimension: of the channels.
    """
    grad_x, size = torch.empty_like(x), x.numel() // groups(x)
    low, high = bounds(grid)
    source().backward_of_adapted[_blocks(size), groups(x)](
        grad, x, scale.contiguous(), grad_pixel, grad_x, size, float(low), float(high), *_channels(x, dimension),
        IN_CODES=of_codes, BLOCK=BLOCK,
    )  # fmt: skip
    return grad_x


def taken_gradient(grad: Tensor, x: Tensor, *, of_codes: bool) -> Tensor:
    """Return the gradient of what was made of a dense `x`, as kernels read it."""
    return laid_out_as(x, grad.to(torch.bfloat16) if of_codes else grad)


def _in_blocks(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid, grad_x: Tensor | None, *, of_codes: bool) -> Tensor:
    """Write the gradient of `x`, if anywhere; return that of each scale in parts, (scales, blocks)."""
    scale = scale.contiguous()
    count, size = _divided(x, scale)
    sums = scale.new_empty(count, _blocks(size))
    low, high, levels = *bounds(grid), _level_tables(grid, scale)
    source().backward[_blocks(size), count](
        grad, x, scale, grad_x, sums, *levels, size, float(low), float(high), int(count > 1),
        COUNT=_levels(grid), IN_CODES=of_codes, SUMS_ALONE=grad_x is None, BLOCK=BLOCK,
    )  # fmt: skip
    return sums


def can_scale(x: Tensor, of_samples: Tensor, of_channels: Tensor) -> bool:
    """Can `scaled` work on such tensors?"""
    if not (x.is_cuda and is_plain(x, torch.bfloat16) and x.dim() > of_channels.dim() > 0):
        return False
    if not (0 < x.numel() < MOST_VALUES and groups(x) <= MOST_GROUPS and is_dense(x) and works(x.device)):
        return False
    channels = x.shape[x.dim() - of_channels.dim()]
    return (
        all(is_plain(scale) and scale.device == x.device for scale in (of_samples, of_channels))
        and of_samples.numel() in (1, groups(x))
        and of_channels.numel() in (1, channels)
    )


def scaled(x: Tensor, of_samples: Tensor, of_channels: Tensor) -> Tensor:
    """As `dispatch.scaled`, where `can_scale`."""
    out = torch.empty_like(x)
    size = x.numel() // groups(x)
    source().scaled[_blocks(size), groups(x)](
        x, of_samples.contiguous(), of_channels.contiguous(), out, size, *_channels(x, x.dim() - of_channels.dim()),
        int(of_samples.numel() > 1), int(of_channels.numel() > 1), BLOCK=BLOCK,
    )  # fmt: skip
    return out


def _channels(x: Tensor, dimension: int) -> tuple[int, int]:
    """Return how many values of a channel lie side by side in a dense tensor, and its channels."""
    return max(x.stride(dimension), 1), x.shape[dimension]


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
            whole = codes(x, scale, grid, torch.bfloat16)
            if not torch.equal(whole.float(), (x_hat * (1.0 / scale)).round()):
                return False
            for given in (x, x.bfloat16()):
                of_codes = codes_backward(x.bfloat16(), given, scale, grid)
                expected = eager.fake_quantize_backward(x.bfloat16().float() / scale, given, scale, grid)
                # Triton's interpreter, in tests, rounds to bfloat16 otherwise than a GPU.
                pairs = zip(of_codes, expected, (2**-7, 1e-3), strict=True)
                if not all(torch.allclose(a.float(), b.float(), rtol=rtol, atol=0.0) for a, b, rtol in pairs):
                    return False
        of_channels = torch.linspace(0.1, 2.0, x.shape[1], device=device)
        rounded = x.bfloat16()
        results = scaled(rounded, scale, of_channels).float(), rounded.float() * (scale * of_channels)
        rows = round_rows(x, 127, 1e-30), eager.round_rows(x, 127, 1e-30)
        return torch.allclose(*results, rtol=2**-7) and torch.equal(*rows)
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


def _level_tables(grid: Grid, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return (boundaries, magnitudes), smallest first; of a uniform grid anything."""
    if isinstance(grid, UniformGrid):
        return scale, scale
    boundaries, magnitudes = level_tables(grid, scale.dtype, scale.device)
    return boundaries, magnitudes[1:]


@cache
def source() -> Any:
    """Return the kernels; importing Triton takes half a second, and it may be missing."""
    from asqcli.quant.kernels import triton_source

    return triton_source
