"""Gradients of convolutions of 3x3 windows at stride 1, in Winograd's form: a quarter of the definition's products."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from asqcli.engine.native.batch import Convolution
from asqcli.nn.products.bindings import Winograd, find_library, library, workers_for
from asqcli.quant.kernels.native import threads_of_torch

CHUNK, MOST_PADDING = 16, 2
# Bytes, of all threads together. Of more channels or threads the sums are larger than a cache, and what is saved in
# products goes to reading them.
MOST_SCRATCH = 32 * 2**20


def gain(convolution: Convolution, images: int) -> bool:
    """Can they be computed so, of so many images, and is that faster than PyTorch, as measured (bench/RESULTS.md)?"""
    layout = convolution.layout
    windows = layout.kernel, layout.dilation, convolution.stride, layout.groups
    in_chunks = layout.channels % CHUNK == layout.outputs % CHUNK == 0
    if windows != ((3, 3), (1, 1), (1, 1), 1) or not in_chunks or max(layout.padding) > MOST_PADDING:
        return False
    return find_library() is not None and 4 * _scratch(convolution, images, workers_for(images)) <= MOST_SCRATCH


def gradients(
    convolution: Convolution, grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor, *, of_x: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the rounded `x` and of `weight`, where they `gain`; None for one that is not wanted.

    That of `x` does not depend on the number of threads; that of `weight` is a sum over images, whose order does.

    Args:
        grad: of the output, (N, C_out, H_out, W_out); float32, as all.
        x: (N, C, H, W), real units.
        scale: step size, above 0: one, or one for each image; the convolution was of `x` in whole numbers of it.
        weight: (C_out, C, 3, 3), as it was multiplied by.
    """
    grad, x = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (grad, x))
    weight = weight.contiguous()
    grad_x = torch.empty_like(x) if of_x else None
    grad_weight = torch.empty_like(weight) if of_weight else None
    workers = workers_for(len(x))
    scratch = torch.empty(_scratch(convolution, len(x), workers), dtype=torch.float32, device="cpu")
    task = _task(
        convolution, len(x), workers, x=x.data_ptr(), steps=scale.data_ptr(),
        step_stride=int(scale.numel() > 1), grad=grad.data_ptr(), weight=weight.data_ptr(), scratch=scratch.data_ptr(),
        grad_x=None if grad_x is None else grad_x.data_ptr(),
        grad_weight=None if grad_weight is None else grad_weight.data_ptr(),
    )  # fmt: skip
    library().asq_winograd_gradients(ctypes.byref(task), threads_of_torch())
    return grad_x, grad_weight


@lru_cache(maxsize=256)  # images of ever new sizes must not fill the memory
def _scratch(convolution: Convolution, images: int, workers: int) -> int:
    """Return the floats that so many workers need."""
    return library().asq_winograd_scratch(ctypes.byref(_task(convolution, images, workers)))


def _task(convolution: Convolution, images: int, workers: int, **of_call: int | None) -> Winograd:
    layout, (out_height, out_width) = convolution.layout, convolution.out_shape
    top, left, *_ = layout.padding
    return Winograd(
        images=images, channels=layout.channels, outputs=layout.outputs, height=layout.height, width=layout.width,
        out_height=out_height, out_width=out_width, top=top, left=left, qmin=convolution.qmin, qmax=convolution.qmax,
        workers=workers, **of_call,
    )  # fmt: skip
