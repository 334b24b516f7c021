"""ASQ in one pass: the pool of a sample, its adapter and its rounding, while the sample is in a cache."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from asqcli.quant.kernels.answers import Answers, Layers
from asqcli.quant.kernels.grid import Grid
from asqcli.quant.kernels.memory import in_order
from asqcli.quant.kernels.native import Adapted, compiled, fill_gradient, fill_pass


def adapted_fake_quantize(
    x: Tensor, step_size: Tensor, layers: Layers, grid: Grid, *, channels_last: bool
) -> tuple[Tensor, Answers]:
    """Return the fake-quantized `x`, and what its adapter answered.

    Args:
        x: (N, C, H, W), or (N, .., C) when `channels_last`; float32 or bfloat16 on the CPU.
        step_size: ().
    """
    x = in_order(x, channels_last)
    x_hat = torch.empty_like(x)
    return x_hat, _adapt(x, step_size, layers, grid, x_hat, channels_last=channels_last)


def adapted_codes(
    x: Tensor, step_size: Tensor, layers: Layers, grid: Grid, dtype: torch.dtype, *, channels_last: bool
) -> tuple[Tensor, Answers]:
    """Return the codes of `adapted_fake_quantize` in a type that holds them, and what the adapter answered."""
    x = in_order(x, channels_last)
    codes = torch.empty_like(x, dtype=dtype)
    return codes, _adapt(x, step_size, layers, grid, codes, channels_last=channels_last, in_codes=True)


def adapt(x: Tensor, step_size: Tensor, layers: Layers, grid: Grid, *, channels_last: bool) -> Answers:
    """Return what an adapter answers, and leave the rounding to others; as `adapted_fake_quantize`."""
    return _adapt(in_order(x, channels_last), step_size, layers, grid, None, channels_last=channels_last)


def _adapt(
    x: Tensor, step_size: Tensor, layers: Layers, grid: Grid, out: Tensor | None,
    *, channels_last: bool, in_codes: bool = False,
) -> Answers:  # fmt: skip
    samples, channels = x.shape[0], x.shape[-1 if channels_last else 1]
    units = layers[0][1].numel() if len(layers) > 1 else 0
    scale = x.new_empty(samples, *[1] * (x.dim() - 1), dtype=torch.float32)
    answers = Answers(scale, *(scale.new_empty(samples, width) for width in (1, channels, units)))
    task, _kept = _fill(x, step_size, layers, answers, grid, out, channels_last, in_codes=in_codes)
    compiled().asq_adapted_fake_quantize(ctypes.byref(task))
    return answers


def adapted_fake_quantize_backward(
    grad: Tensor, x: Tensor, step_size: Tensor, layers: Layers, answers: Answers, grid: Grid,
    *, channels_last: bool, of_codes: bool = False,
) -> tuple[Tensor, Tensor, Layers]:  # fmt: skip
    """Return the gradients of `x`, of `step_size` and of the layers.

    Args:
        of_codes: is it the gradient of `adapted_codes`?
    """
    x = in_order(x, channels_last)
    grad_x = torch.empty_like(x)
    grad_scale = torch.empty(x.shape[0], dtype=torch.float64)
    grad_t, grad_hidden = torch.empty_like(answers.beta), torch.empty_like(answers.hidden)
    task, _kept = _fill(x, step_size, layers, answers, grid, grad_x, channels_last)
    _kept_grad = fill_gradient(task.rounding, grad, x, of_codes=of_codes)
    task.rounding.grad_step = grad_scale.data_ptr()
    task.grad_t, task.grad_hidden = grad_t.data_ptr(), grad_hidden.data_ptr()
    if x.dtype == torch.bfloat16:
        task.most_workers = torch.get_num_threads()
        in_float = torch.empty(task.most_workers, task.rounding.size, dtype=torch.float32, device="cpu")
        task.samples_in_float = in_float.data_ptr()
    compiled().asq_adapted_fake_quantize_backward(ctypes.byref(task))
    inputs, grads = [answers.means], [grad_t]
    if len(layers) > 1:
        inputs, grads = [answers.means, answers.hidden], [grad_hidden, grad_t]
    grad_layers = [(g.t() @ i, g.sum(dim=0)) for g, i in zip(grads, inputs, strict=True)]
    grad_step_size = grad_scale @ answers.beta.flatten().double()
    return grad_x, grad_step_size.to(step_size.dtype), grad_layers


def _fill(
    x: Tensor, step_size: Tensor, layers: Layers, answers: Answers, grid: Grid, out: Tensor | None,
    channels_last: bool, *, in_codes: bool = False,
) -> tuple[Adapted, object]:  # fmt: skip
    """Return the arguments of a pass, and what must live as long as they."""
    task, kept = fill_pass(x, answers.scale, grid, out, in_codes=in_codes)
    task.step_stride = 1  # also of one sample
    samples, channels = answers.means.shape
    layers = [(weight.contiguous(), bias.contiguous()) for weight, bias in layers]
    (weight1, bias1), (weight2, bias2) = layers[0], layers[-1]
    adapted = Adapted(
        rounding=task, pixels=x.numel() // max(samples * channels, 1), channels=channels,
        hidden_count=answers.hidden.shape[1], planes=not channels_last and x.is_contiguous(),
        step_size=step_size.item(), weight1=weight1.data_ptr(), bias1=bias1.data_ptr(), weight2=weight2.data_ptr(),
        bias2=bias2.data_ptr(), beta=answers.beta.data_ptr(), means=answers.means.data_ptr(),
        hidden=answers.hidden.data_ptr(),
    )  # fmt: skip
    return adapted, (kept, layers)
