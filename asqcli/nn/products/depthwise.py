"""Depthwise convolutions of activations that are rounded on the way, and their gradients."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from asqcli.arithmetic.constants import EXACT_FLOAT32
from asqcli.engine.native.batch import Convolution
from asqcli.nn.products.bindings import Depthwise, find_library, library, workers_for
from asqcli.quant.kernels.native import threads_of_torch

WIDTH, KERNELS = 8, (3, 5, 7)


def fits(convolution: Convolution) -> bool:
    """Can the passes compute it? They are faster than the engine's kernels, and than PyTorch with its own roundings."""
    layout, stride, code = convolution.layout, convolution.stride, max(convolution.qmax, -convolution.qmin)
    height, width = layout.kernel
    depthwise = layout.groups == layout.channels == layout.outputs and layout.channels % WIDTH == 0
    usual = height == width and height in KERNELS and layout.dilation == (1, 1) and max(stride) <= height
    exact = code * convolution.largest_level * height * width < EXACT_FLOAT32
    return depthwise and usual and exact and find_library() is not None


def convolve(convolution: Convolution, x: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """Return the convolution of `x` in whole numbers of its scale, equal to evaluation's to the bit; without a bias.

    Args:
        x: (N, C, H, W), channels side by side in memory; float32, as all.
        scale: step size, above 0: one, or one for each image.
        weight: (C, 1, K, K), whole numbers of their scale.
        weight_scale: of level 1; one for each channel, or one.
    Returns:
        (N, C, H_out, W_out), channels side by side.
    """
    shape = len(x), convolution.layout.channels, *convolution.out_shape
    y = torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
    weight = weight.contiguous()
    task, _scratch = _task(
        convolution, x, scale, weight=weight.data_ptr(), out=y.data_ptr(), weight_scale=weight_scale.data_ptr(),
        scale_stride=int(weight_scale.numel() > 1),
    )  # fmt: skip
    library().asq_depthwise(ctypes.byref(task), threads_of_torch())
    return y


def gradients(
    convolution: Convolution, grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the rounded `x` and of `weight`, both in one pass; else as `winograd.gradients`."""
    grad, x = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (grad, x))
    weight = weight.contiguous()
    grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
    task, _scratch = _task(
        convolution, x, scale, weight=weight.data_ptr(), grad=grad.data_ptr(), grad_x=grad_x.data_ptr(),
        grad_weight=grad_weight.data_ptr(),
    )  # fmt: skip
    library().asq_depthwise_gradients(ctypes.byref(task), threads_of_torch())
    return grad_x, grad_weight


def _task(convolution: Convolution, x: Tensor, scale: Tensor, **of_call: int) -> tuple[Depthwise, Tensor]:
    """Return what is to be done, and the memory to do it in."""
    layout, (out_height, out_width) = convolution.layout, convolution.out_shape
    top, left, *_ = layout.padding
    task = Depthwise(
        images=len(x), channels=layout.channels, height=layout.height, width=layout.width, out_height=out_height,
        out_width=out_width, kernel=layout.kernel[0], stride_h=convolution.stride[0], stride_w=convolution.stride[1],
        top=top, left=left, x=x.data_ptr(), steps=scale.data_ptr(), step_stride=int(scale.numel() > 1),
        qmin=convolution.qmin, qmax=convolution.qmax, workers=workers_for(len(x)), **of_call,
    )  # fmt: skip
    scratch = torch.empty(library().asq_depthwise_scratch(ctypes.byref(task)), dtype=torch.float32, device="cpu")
    task.scratch = scratch.data_ptr()
    return task, scratch
