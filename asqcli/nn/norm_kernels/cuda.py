"""Batch norm in training on a GPU, of images whose channels come last in memory.

PyTorch's kernels for these take three to eight times as long as reading and writing the batch does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asqcli.nn.norm_calls import BatchNormsBy
from asqcli.quant.gradients import Gradients, from_saved
from asqcli.quant.kernels.memory import ROUNDED, is_plain, laid_out_as

VALUES = 4096  # of a tile
MOST_CHANNELS = 256  # of a tile, at most
MOST_PROGRAMS = 1024  # that make sums together; no number of a device's own, on which the sums would depend
PROGRAMS_AT_ONCE, CHANNELS_AT_ONCE = 128, 16  # whose sums are added up
MOST_ROWS = 1 << 31  # whose numbers have 32 bits


def by_kernels(device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a forward in training normalizes batches on a device by kernels of our own."""
    return _ByKernels() if device.type == "cuda" else nullcontext()


class _ByKernels(BatchNormsBy):
    def batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        if takes(input, weight, bias, running_mean, running_var) and (running_mean is None) == (running_var is None):
            return batch_norm(input, weight, bias, running_mean, running_var, momentum, eps)
        return F.batch_norm(input, running_mean, running_var, weight, bias, True, momentum, eps)


def takes(x: Tensor, *of_channels: Tensor | None) -> bool:
    """Can the kernels normalize such a batch?

    Args:
        of_channels: weight, bias and running statistics, as far as there are any.
    """
    return x.is_cuda and fits(x, *of_channels) and works(x.device)


def fits(x: Tensor, *of_channels: Tensor | None) -> bool:
    """Do such tensors lie in memory as the kernels read them? As `takes`."""
    if not (is_plain(x, *ROUNDED) and x.dim() == 4 and x.shape[1] > 1 and 1 < _rows(x) < MOST_ROWS):
        return False
    if not x.is_contiguous(memory_format=torch.channels_last):
        return False
    return all(is_plain(t) and t.device == x.device and t.is_contiguous() for t in of_channels if t is not None)


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Return the batch with mean 0 and variance 1 in each channel, times the weight, plus the bias; where it `takes`.

    Args:
        x: (N, C, H, W), channels last; float32 or bfloat16, and so is the result.
        running_mean, running_var: both or neither; moved towards those of the batch by `momentum`.
    """
    return _BatchNorm.apply(x, weight, bias, running_mean, running_var, momentum, eps)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        (rows, channels), run = _matrix(x), source()
        sums, tiles = _sums(x), _tiles(channels)
        run.statistics[_programs(rows, channels)](x, sums, rows, channels, _rows_each(rows, channels), **tiles)
        mean, inverse = (torch.empty(channels, dtype=torch.float32, device=x.device) for _ in range(2))
        run.finish_statistics[_channel_programs(channels)](
            x, sums, len(sums), mean, inverse, running_mean, running_var, rows, channels, momentum, eps,
            RUNNING=running_mean is not None, PROGRAMS=PROGRAMS_AT_ONCE, CHANNELS=CHANNELS_AT_ONCE,
        )  # fmt: skip
        out = torch.empty_like(x)
        run.normalize[_tile_programs(rows, channels)](
            x, mean, inverse, weight, bias, out, rows, channels, WITH_WEIGHT=weight is not None,
            WITH_BIAS=bias is not None, **tiles,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.with_bias = bias is not None
        return out

    @staticmethod
    @from_saved
    def backward(ctx: Any, saved: Sequence[Any], grad: Tensor) -> Gradients:
        x, weight, mean, inverse = saved
        (rows, channels), run, grad = _matrix(x), source(), laid_out_as(x, grad)
        sums, tiles = _sums(x), _tiles(channels)
        run.gradient_sums[_programs(rows, channels)](
            grad, x, mean, sums, rows, channels, _rows_each(rows, channels), **tiles
        )
        of_weight, of_bias, factors = torch.empty_like(mean), torch.empty_like(mean), mean.new_empty(3, channels)
        run.finish_gradients[_channel_programs(channels)](
            sums, len(sums), inverse, weight, of_weight, of_bias, factors, rows, channels,
            WITH_WEIGHT=weight is not None, PROGRAMS=PROGRAMS_AT_ONCE, CHANNELS=CHANNELS_AT_ONCE,
        )  # fmt: skip
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = torch.empty_like(x)
            run.gradient[_tile_programs(rows, channels)](grad, x, mean, factors, of_x, rows, channels, **tiles)
        return of_x, None if weight is None else of_weight, of_bias if ctx.with_bias else None, *[None] * 4


@cache
@torch.enable_grad()
def works(device: torch.device) -> bool:
    """Does Triton work on a device, and normalize as PyTorch does?"""
    drawn = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(3, 20, 9, 7, generator=drawn).to(device, memory_format=torch.channels_last) for _ in "xg")
    weight, bias = torch.linspace(0.5, 2.0, 20, device=device), torch.linspace(-1.0, 1.0, 20, device=device)
    try:
        for dtype, bound in ((torch.float32, 1e-4), (torch.bfloat16, 2**-5)):
            results = []
            for form in (batch_norm, _by_pytorch):
                inputs = [t.clone().requires_grad_() for t in (x.to(dtype), weight, bias)]
                running = torch.zeros(20, device=device), torch.ones(20, device=device)
                y = form(inputs[0], inputs[1], inputs[2], *running, 0.1, 1e-5)
                results.append([y, *running, *torch.autograd.grad(y, inputs, grad.to(dtype))])
            if not all(torch.allclose(a, b, rtol=bound, atol=bound) for a, b in zip(*results, strict=True)):
                return False
        return True
    except Exception:  # Triton raises whatever its compilers, or ours, raise
        return False


def _by_pytorch(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, momentum: float, eps: float
) -> Tensor:
    return F.batch_norm(x, mean, variance, weight, bias, True, momentum, eps)


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[1]


def _matrix(x: Tensor) -> tuple[int, int]:
    """Return (rows, channels)."""
    return _rows(x), x.shape[1]


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
