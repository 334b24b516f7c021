"""Batch norm in training on a GPU, by Triton.

PyTorch's kernels for channels that come last take three to eight times as long as reading and writing the batch does.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asqcli.quant.gradients import undisturbed

VALUES = 4096  # of a tile
MOST_CHANNELS = 256  # of a tile, at most
MOST_PROGRAMS = 1024  # that make sums together; no number of a device's own, on which the sums would depend
PROGRAMS_AT_ONCE, CHANNELS_AT_ONCE = 128, 16  # whose sums are added up


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalized batch, and (mean, 1 / deviation) of each channel, (C,)."""
    (rows, channels), run = _matrix(x), source()
    sums, tiles = _sums(x), _tiles(channels)
    mean, inverse = (torch.empty(channels, dtype=torch.float32, device=x.device) for _ in range(2))
    run.statistics[_programs(rows, channels)](x, sums, mean, rows, channels, _rows_each(rows, channels), **tiles)
    run.finish_statistics[_channel_programs(channels)](
        sums, len(sums), mean, inverse, running_mean, running_var, rows, channels, momentum, eps,
        RUNNING=running_mean is not None, PROGRAMS=PROGRAMS_AT_ONCE, CHANNELS=CHANNELS_AT_ONCE,
    )  # fmt: skip
    out = torch.empty_like(x)
    run.normalize[_tile_programs(rows, channels)](
        x, mean, inverse, weight, bias, out, rows, channels, WITH_WEIGHT=weight is not None,
        WITH_BIAS=bias is not None, **tiles,
    )  # fmt: skip
    return out, mean, inverse


def backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, inverse: Tensor, *, of_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of `x`, where it is asked for, of weight and bias.

    Args:
        grad: in the order of memory of `x`.
    """
    (rows, channels), run = _matrix(x), source()
    sums, tiles = _sums(x), _tiles(channels)
    run.gradient_sums[_programs(rows, channels)](
        grad, x, mean, sums, rows, channels, _rows_each(rows, channels), **tiles
    )
    of_weight, of_bias, factors = torch.empty_like(mean), torch.empty_like(mean), mean.new_empty(3, channels)
    run.finish_gradients[_channel_programs(channels)](
        sums, len(sums), inverse, weight, of_weight, of_bias, factors, rows, channels,
        WITH_WEIGHT=weight is not None, PROGRAMS=PROGRAMS_AT_ONCE, CHANNELS=CHANNELS_AT_ONCE,
    )  # fmt: skip
    grad_x = torch.empty_like(x) if of_x else None
    if grad_x is not None:
        run.gradient[_tile_programs(rows, channels)](grad, x, mean, factors, grad_x, rows, channels, **tiles)
    return grad_x, of_weight, of_bias


@cache
def works(device: torch.device) -> bool:
    """Does Triton work on a device, and normalize as PyTorch does?"""
    drawn = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(3, 20, 9, 7, generator=drawn).to(device, memory_format=torch.channels_last) for _ in "xg")
    weight, bias = torch.linspace(0.5, 2.0, 20, device=device), torch.linspace(-1.0, 1.0, 20, device=device)
    running, same = ([torch.zeros(20, device=device), torch.ones(20, device=device)] for _ in "rs")
    try:
        for dtype, bound in ((torch.float32, 1e-4), (torch.bfloat16, 2**-5)):
            x, grad = x.to(dtype), grad.to(dtype)
            y, mean, inverse = forward(x, weight, bias, running[0], running[1], 0.1, 1e-5)
            found = [y, *running, *backward(grad, x, weight, mean, inverse, of_x=True)]
            with undisturbed(device):
                inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
                y = F.batch_norm(inputs[0], same[0], same[1], inputs[1], inputs[2], True, 0.1, 1e-5)
                expected = [y, *same, *torch.autograd.grad(y, inputs, grad)]
            pairs = zip(found, expected, strict=True)
            if not all(a is not None and torch.allclose(a, b, rtol=bound, atol=bound) for a, b in pairs):
                return False
        return True
    except Exception:  # Triton raises whatever its compilers, or ours, raise
        return False


def _matrix(x: Tensor) -> tuple[int, int]:
    """Return (rows, channels)."""
    return x.numel() // x.shape[1], x.shape[1]


def _tiles(channels: int) -> dict[str, int]:
    across = min(1 << (channels - 1).bit_length(), MOST_CHANNELS)
    return {"ROWS": VALUES // across, "CHANNELS": across, "num_warps": 8}


def _across(channels: int) -> int:
    """Return the tiles that lie beside each other."""
    return -(-channels // _tiles(channels)["CHANNELS"])


def _tile_programs(rows: int, channels: int) -> tuple[int, int]:
    return -(-rows // _tiles(channels)["ROWS"]), _across(channels)


def _rows_each(rows: int, channels: int) -> int:
    """Return the rows that a program sums up, in whole tiles."""
    down, across = _tile_programs(rows, channels)
    return -(-down * across // MOST_PROGRAMS) * _tiles(channels)["ROWS"]


def _programs(rows: int, channels: int) -> tuple[int, int]:
    return -(-rows // _rows_each(rows, channels)), _across(channels)


def _channel_programs(channels: int) -> tuple[int]:
    return (-(-channels // CHANNELS_AT_ONCE),)


def _sums(x: Tensor) -> Tensor:
    programs, _ = _programs(*_matrix(x))
    return torch.empty(programs, 2, x.shape[1], dtype=torch.float32, device=x.device)


@cache
def source() -> Any:
    """Return the kernels; importing Triton takes half a second, and it may be missing."""
    from asqcli.nn.norm_kernels import triton_source

    return triton_source
