"""The compiled gradients of `csrc/gradients.c`: of convolutions of 3x3 windows at stride 1, in Winograd's form.

They multiply a quarter as often as the definition does, and round the activations again on the way.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from asqcli.engine.native.batch import Convolution
from asqcli.quant.kernels.native import threads_of_torch

LIBRARY = Path(__file__).with_name("csrc") / "gradients.so"  # beside its source, where Python looks for no modules
CHUNK, MOST_PADDING = 16, 2
# Bytes. Of more channels the transformed filters alone are larger than a cache, and what is saved in products goes to
# reading them; glibc asks the system for larger pieces anew each time.
MOST_SCRATCH = 32 * 2**20
_pointer, _int64, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Task(ctypes.Structure):
    """`Task` of the C source, field for field."""

    __slots__ = ()
    _fields_ = (
        ("images", _int64), ("channels", _int64), ("outputs", _int64), ("height", _int64), ("width", _int64),
        ("out_height", _int64), ("out_width", _int64), ("top", _int64), ("left", _int64),
        ("x", _pointer), ("steps", _pointer), ("step_stride", _int64), ("qmin", _float), ("qmax", _float),
        ("grad", _pointer), ("weight", _pointer), ("grad_x", _pointer), ("grad_weight", _pointer),
        ("scratch", _pointer), ("workers", _int64), ("next", ctypes.c_int),
    )  # fmt: skip


def gain(convolution: Convolution, images: int) -> bool:
    """Can they be computed so, of so many images, and is that faster than PyTorch, as measured (bench/RESULTS.md)?"""
    return _fits(convolution) and 4 * _scratch(convolution, _workers(images)) <= MOST_SCRATCH


def convolution_gradients(
    convolution: Convolution, grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor, *, of_x: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the rounded `x` and of `weight`, where they `gain`; None for one that is not wanted.

    That of `x` does not depend on the number of threads; that of `weight` is a sum over images, whose order does.

    Args:
        grad: of the output, (N, C_out, H_out, W_out); float32, as all.
        x: (N, C, H, W), real units, channels side by side in memory.
        scale: step size, above 0: one, or one for each image; the convolution was of `x` in whole numbers of it.
        weight: (C_out, C, 3, 3), as it was multiplied by.
    """
    grad, weight = grad.contiguous(memory_format=torch.channels_last), weight.contiguous()
    grad_x = torch.empty_like(x) if of_x else None
    grad_weight = torch.empty_like(weight) if of_weight else None
    workers = _workers(len(x))
    scratch = torch.empty(_scratch(convolution, workers), dtype=torch.float32, device="cpu")
    task = _task(
        convolution, workers, images=len(x), x=x.data_ptr(), steps=scale.data_ptr(),
        step_stride=int(scale.numel() > 1), grad=grad.data_ptr(), weight=weight.data_ptr(), scratch=scratch.data_ptr(),
        grad_x=None if grad_x is None else grad_x.data_ptr(),
        grad_weight=None if grad_weight is None else grad_weight.data_ptr(),
    )  # fmt: skip
    _library().asq_gradients(ctypes.byref(task), threads_of_torch())
    return grad_x, grad_weight


def _fits(convolution: Convolution) -> bool:
    layout = convolution.layout
    windows = layout.kernel, layout.dilation, convolution.stride, layout.groups
    in_chunks = layout.channels % CHUNK == layout.outputs % CHUNK == 0
    usual = windows == ((3, 3), (1, 1), (1, 1), 1) and in_chunks and max(layout.padding) <= MOST_PADDING
    return usual and _loaded() is not None


def _workers(images: int) -> int:
    return max(1, min(torch.get_num_threads(), images)) if threads_of_torch() else 1


@lru_cache(maxsize=256)  # images of ever new sizes must not fill the memory
def _scratch(convolution: Convolution, workers: int) -> int:
    """Return the floats that so many workers need for both gradients."""
    return _library().asq_gradients_scratch(ctypes.byref(_task(convolution, workers)))


def _task(convolution: Convolution, workers: int, **of_call: int | None) -> _Task:
    layout, (out_height, out_width) = convolution.layout, convolution.out_shape
    top, left, *_ = layout.padding
    return _Task(
        channels=layout.channels, outputs=layout.outputs, height=layout.height, width=layout.width,
        out_height=out_height, out_width=out_width, top=top, left=left, qmin=convolution.qmin, qmax=convolution.qmax,
        workers=workers, **of_call,
    )  # fmt: skip


def _library() -> ctypes.CDLL:
    library = _loaded()
    assert library is not None
    return library


@cache
def _loaded() -> ctypes.CDLL | None:
    """Return the compiled pass; None where it was not compiled, or does not run on this processor."""
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    library.asq_gradients_scratch.argtypes = (ctypes.POINTER(_Task),)
    library.asq_gradients_scratch.restype = library.asq_gradients_task_size.restype = _int64
    library.asq_gradients.argtypes = (ctypes.POINTER(_Task), _pointer)
    library.asq_gradients.restype = None
    assert library.asq_gradients_task_size() == ctypes.sizeof(_Task), "csrc/gradients.c and gradients.py differ"
    return library if library.asq_gradients_supported() else None
