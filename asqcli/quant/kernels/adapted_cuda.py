"""ASQ on a GPU: a sample's adapter in one kernel, forward and backward, around the passes of `cuda`."""

from __future__ import annotations

from functools import cache
from itertools import chain

import torch
from torch import Tensor

from asqcli.quant.gradients import undisturbed
from asqcli.quant.kernels import cuda, eager
from asqcli.quant.kernels.answers import Answers, Layers
from asqcli.quant.kernels.grid import Grid, UniformGrid
from asqcli.quant.kernels.memory import in_order

BLOCK = 32  # channels and hidden units that a program holds at once


def adapted_fake_quantize(
    x: Tensor, step_size: Tensor, layers: Layers, grid: Grid, *, channels_last: bool
) -> tuple[Tensor, Answers]:
    """As `adapted.adapted_fake_quantize`."""
    answers = _adapt(x, step_size, layers, channels_last=channels_last)
    return cuda.fake_quantize(in_order(x, channels_last), answers.scale, grid), answers


def adapted_codes(
    x: Tensor, step_size: Tensor, layers: Layers, grid: Grid, dtype: torch.dtype, *, channels_last: bool
) -> tuple[Tensor, Answers]:
    """As `adapted.adapted_codes`."""
    answers = _adapt(x, step_size, layers, channels_last=channels_last)
    return cuda.codes(in_order(x, channels_last), answers.scale, grid, dtype), answers


def _adapt(x: Tensor, step_size: Tensor, layers: Layers, *, channels_last: bool) -> Answers:
    x = in_order(x, channels_last)
    pixels = _pixels(x, channels_last)
    sums = (x.sum(dim=pixels, dtype=torch.float32) if pixels else x.float()).contiguous()
    samples, channels = sums.shape
    units = layers[0][1].numel() if len(layers) > 1 else 0
    scale = step_size.new_empty(samples, *[1] * (x.dim() - 1))
    answers = Answers(scale, *(scale.new_empty(samples, width) for width in (1, channels, units)))
    layers = [(weight.contiguous(), bias.contiguous()) for weight, bias in layers]
    cuda.source().adapt[samples,](
        sums, step_size, *layers[0], *layers[-1], answers.means, answers.hidden, answers.beta, scale, channels, units,
        float(x[0].numel() // channels), LAYERS=len(layers), BLOCK=BLOCK,
    )  # fmt: skip
    return answers


def adapted_fake_quantize_backward(
    grad: Tensor, x: Tensor, step_size: Tensor, layers: Layers, answers: Answers, grid: Grid,
    *, channels_last: bool, of_codes: bool = False,
) -> tuple[Tensor, Tensor, Layers]:  # fmt: skip
    """As `adapted.adapted_fake_quantize_backward`."""
    x = in_order(x, channels_last)
    grad = cuda.taken_gradient(grad, x, of_codes=of_codes)
    sums = cuda.gradients_of_scales(grad, x, answers.scale, grid, of_codes=of_codes)
    (samples, channels), units = answers.means.shape, answers.hidden.shape[1]
    grad_step, grad_t = sums.new_empty(samples), torch.empty_like(answers.beta)
    grad_hidden, grad_pixel = torch.empty_like(answers.hidden), torch.empty_like(answers.means)
    cuda.source().adapt_backward[samples,](
        sums, sums.shape[1], step_size, layers[0][0].contiguous(), layers[-1][0].contiguous(), answers.hidden,
        answers.beta, grad_step, grad_t, grad_hidden, grad_pixel, channels, units, float(x[0].numel() // channels),
        LAYERS=len(layers), BLOCK=BLOCK,
    )  # fmt: skip
    dimension = x.dim() - 1 if channels_last else 1
    grad_x = cuda.gradient_of_adapted(grad, x, answers.scale, grid, grad_pixel, dimension, of_codes=of_codes)
    inputs, grads = [answers.means], [grad_t]
    if len(layers) > 1:
        inputs, grads = [answers.means, answers.hidden], [grad_hidden, grad_t]
    grad_layers = [(g.t() @ i, g.sum(dim=0)) for g, i in zip(grads, inputs, strict=True)]
    return grad_x, grad_step.sum().reshape(step_size.shape), grad_layers


@cache
def works(device: torch.device) -> bool:
    """Do these kernels work on a device, and adapt as autograd does with PyTorch's operations?"""
    with undisturbed(device):
        return _works(device)


def _works(device: torch.device) -> bool:
    drawn = torch.Generator().manual_seed(0)
    widths = [(7, 40), (7,), (1, 7), (1,)]
    x, *parameters = (torch.randn(shape, generator=drawn).to(device) for shape in [(3, 40, 6, 6), *widths])
    weight1, bias1, weight2, bias2 = parameters
    layers, step_size, grid = [(weight1, bias1), (weight2, bias2)], torch.tensor(0.3, device=device), UniformGrid(-8, 7)
    try:
        x_hat, answers = adapted_fake_quantize(x, step_size, layers, grid, channels_last=False)
        found = adapted_fake_quantize_backward(x, x, step_size, layers, answers, grid, channels_last=False)
        for tensor in (x, step_size, *parameters):
            tensor.requires_grad_()
        t = (x.mean(dim=(2, 3)) @ weight1.t() + bias1).relu() @ weight2.t() + bias2
        scale = step_size * torch.where(t >= 0, 1 + t, 1 / (1 - t.clamp(max=0)))[:, :, None, None]
        of_x, of_scale = eager.fake_quantize_backward(x.detach(), x.detach(), scale.detach(), grid)
        expected = torch.autograd.grad(scale, (x, step_size, *parameters), of_scale)
        pairs = zip((found[0] - of_x, found[1], *chain.from_iterable(found[2])), expected, strict=True)
        return torch.equal(x_hat, eager.fake_quantize(x.detach(), answers.scale, grid)) and all(
            bool((a - b).abs().max() <= 1e-3 * b.abs().max()) for a, b in pairs
        )
    except Exception:  # as in `cuda.works`
        return False


def _pixels(x: Tensor, channels_last: bool) -> tuple[int, ...]:
    """Return the dimensions that an adapter averages over, in order."""
    return tuple(range(1, x.dim() - 1)) if channels_last else tuple(range(2, x.dim()))
