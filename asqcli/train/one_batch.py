"""Batch norm in training over the batch of all processes, of which each has a part.

Derivation, per channel, over all N values of the whole batch:

    mean = sum(x) / N      variance = sum(x^2) / N - mean^2      u = (x - mean) / sqrt(variance + eps)      y = w u + b
    dw = sum(dy u)      db = sum(dy)      dx = w / sqrt(variance + eps) * (dy - db / N - u dw / N)

Each process makes the sums over its part by PyTorch's kernels, of whatever size that is; what is added up is in double,
so that taking two large numbers from one another costs nothing. `dw` and `db` of the parameters stay those of the part:
gradients are added up after the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asqcli.nn.norm_calls import BatchNormsBy
from asqcli.processes.alone import Processes
from asqcli.quant.gradients import Gradients, from_saved


def as_one_batch(processes: Processes) -> AbstractContextManager[object]:
    """Return the context in which a forward in training, and its backward, take the parts of a batch as one."""
    return _OfAll(processes) if processes.size > 1 else nullcontext()


class _OfAll(BatchNormsBy):
    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes

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
        x = input if input.dtype == torch.float64 else input.float()
        with torch.no_grad():
            mean, variance, count = _statistics(x, self.processes)
            if running_mean is not None and running_var is not None:
                running_mean.mul_(1 - momentum).add_(momentum * mean)
                running_var.mul_(1 - momentum).add_(momentum * variance * count / (count - 1))  # unbiased, as torch's
        output: Any = _Normalize.apply(
            x, weight, bias, mean.to(x.dtype), variance.to(x.dtype), count, eps, self.processes
        )
        return output.to(input.dtype)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
        processes: Processes,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.has_bias, ctx.eps, ctx.processes = bias is not None, eps, processes
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @from_saved
    def backward(ctx: Any, saved: Sequence[Any], gradient: Tensor) -> Gradients:
        x, weight, mean, variance, count = saved
        # As in evaluation: the sums over this part, by the statistics given.
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        sums = torch.cat([of_weight, of_bias]).double()
        ctx.processes.add_up(sums)
        mean_of_weight, mean_of_bias = (sums / count).to(x.dtype).chunk(2)
        multiplier = (variance + ctx.eps).rsqrt()
        if weight is not None:
            multiplier = multiplier * weight
        # -multiplier * (u * mean_of_weight + mean_of_bias) is a batch norm itself.
        of_input = F.batch_norm(
            x, mean, variance, -multiplier * mean_of_weight, -multiplier * mean_of_bias, False, 0.0, ctx.eps
        )
        of_input.addcmul_(gradient, multiplier.reshape(-1, *[1] * (x.dim() - 2)))
        return of_input, None if weight is None else of_weight, of_bias if ctx.has_bias else None, *[None] * 5


def _statistics(x: Tensor, processes: Processes) -> tuple[Tensor, Tensor, Tensor]:
    """Return (mean, biased variance) per channel, (C,), and the values of a channel, (), over all processes: float64.

    Args:
        x: this process's part, (N, C, ..).
    Raises:
        ValueError: there is one value of a channel in all.
    """
    mean, variance = (t.double() for t in torch.batch_norm_update_stats(x, None, None, 0.0))
    own = x.numel() // x.shape[1]
    sums = torch.cat([mean, variance + mean.square(), mean.new_ones(1)]) * own
    processes.add_up(sums)
    count = sums[-1]
    if own == 1 and count == 1:
        raise ValueError("Expected more than 1 value per channel when training")
    mean, square = (sums[:-1] / count).chunk(2)
    return mean, (square - mean.square()).clamp_(min=0), count
