"""The function of autograd, and the context in which a network's batch norms are by it."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asqcli.nn.norm_calls import BatchNormsBy
from asqcli.nn.norm_kernels import cuda, native
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
        form = form_for(input, *given) if (running_mean is None) == (running_var is None) else None
        if form is None:
            return F.batch_norm(input, running_mean, running_var, weight, bias, True, momentum, eps)
        return batch_norm(form, input, *given, momentum, eps)


def form_for(x: Tensor, *of_channels: Tensor | None) -> ModuleType | None:
    """Return the module whose passes can normalize such a batch, if any.

    Args:
        of_channels: weight, bias and running statistics, as far as there are any.
    """
    if not (is_plain(x, *ROUNDED) and x.dim() == 4 and x.shape[1] > 1 and 1 < x.numel() // x.shape[1] < MOST_ROWS):
        return None
    if not x.is_contiguous(memory_format=torch.channels_last):
        return None
    present = [t for t in of_channels if t is not None]
    if not all(is_plain(t) and t.device == x.device and t.is_contiguous() for t in present):
        return None
    if not all(t.shape == x.shape[1:2] for t in present):
        return None  # PyTorch tells
    form = {"cpu": native, "cuda": cuda}.get(x.device.type)
    return form if form is not None and form.works(x.device) else None


def batch_norm(
    form: ModuleType,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Return the batch with mean 0 and variance 1 in each channel, times the weight, plus the bias.

    Args:
        form: the one for such tensors.
        x: (N, C, H, W), channels last; float32 or bfloat16, and so is the result.
        running_mean, running_var: both or neither; moved towards those of the batch by `momentum`.
    """
    return _BatchNorm.apply(x, weight, bias, running_mean, running_var, momentum, eps, form)


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
        form: ModuleType,
    ) -> Tensor:
        y, mean, inverse = form.forward(x, weight, bias, running_mean, running_var, momentum, eps)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.form, ctx.with_bias = form, bias is not None
        return y

    @staticmethod
    @from_saved
    def backward(ctx: Any, saved: Sequence[Any], grad: Tensor) -> Gradients:
        x, weight, mean, inverse = saved
        of_x = ctx.needs_input_grad[0]
        grad_x, of_weight, of_bias = ctx.form.backward(laid_out_as(x, grad), x, weight, mean, inverse, of_x=of_x)
        return grad_x, None if weight is None else of_weight, of_bias if ctx.with_bias else None, *[None] * 5
