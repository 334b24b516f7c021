"""The function of autograd, and the context in which a network's batch norms are by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asqcli.nn.norm_calls import BatchNormsBy
from asqcli.nn.norm_kernels import cuda
from asqcli.quant.gradients import Gradients, from_saved
from asqcli.quant.kernels.memory import ROUNDED, is_plain, laid_out_as

MOST_ROWS = 1 << 30  # whose numbers, and those of the next tile, have 32 bits


class ByKernels(BatchNormsBy):
    """While a forward in training, and its backward, run in it, kernels of our own normalize, where they can."""

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
        given = weight, bias, running_mean, running_var
        if takes(input, *given) and (running_mean is None) == (running_var is None):
            return batch_norm(input, *given, momentum, eps)
        return F.batch_norm(input, running_mean, running_var, weight, bias, True, momentum, eps)


def takes(x: Tensor, *of_channels: Tensor | None) -> bool:
    """Can the kernels normalize such a batch?

    Args:
        of_channels: weight, bias and running statistics, as far as there are any.
    """
    return x.is_cuda and fits(x, *of_channels) and cuda.works(x.device)


def fits(x: Tensor, *of_channels: Tensor | None) -> bool:
    """Do such tensors lie in memory as the kernels read them? As `takes`."""
    if not (is_plain(x, *ROUNDED) and x.dim() == 4 and x.shape[1] > 1 and 1 < x.numel() // x.shape[1] < MOST_ROWS):
        return False
    if not x.is_contiguous(memory_format=torch.channels_last):
        return False
    present = [t for t in of_channels if t is not None]
    if not all(is_plain(t) and t.device == x.device and t.is_contiguous() for t in present):
        return False
    return all(t.shape == x.shape[1:2] for t in present)  # else PyTorch tells


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
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, *statistics: Any) -> Tensor:
        y, mean, inverse = cuda.forward(x, weight, bias, *statistics)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.with_bias = bias is not None
        return y

    @staticmethod
    @from_saved
    def backward(ctx: Any, saved: Sequence[Any], grad: Tensor) -> Gradients:
        x, weight, mean, inverse = saved
        of_x = ctx.needs_input_grad[0]
        grad_x, of_weight, of_bias = cuda.backward(laid_out_as(x, grad), x, weight, mean, inverse, of_x=of_x)
        return grad_x, None if weight is None else of_weight, of_bias if ctx.with_bias else None, *[None] * 4
