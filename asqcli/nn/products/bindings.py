"""The compiled passes of `csrc/`, which round activations on the way instead of reading rounded ones."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch

from asqcli.quant.kernels.native import threads_of_torch

LIBRARY = Path(__file__).with_name("csrc") / "products.so"  # beside its source, where Python looks for no modules
pointer, int64, float32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Winograd(ctypes.Structure):
    """As in csrc/winograd.h, field for field."""

    __slots__ = ()  # here and below: a field that the struct does not have cannot be set
    _fields_ = (
        ("images", int64), ("channels", int64), ("outputs", int64), ("height", int64), ("width", int64),
        ("out_height", int64), ("out_width", int64), ("top", int64), ("left", int64),
        ("x", pointer), ("steps", pointer), ("step_stride", int64), ("qmin", float32), ("qmax", float32),
        ("grad", pointer), ("weight", pointer), ("grad_x", pointer), ("grad_weight", pointer),
        ("scratch", pointer), ("workers", int64),
    )  # fmt: skip


class Depthwise(ctypes.Structure):
    """As in csrc/depthwise.h, field for field."""

    __slots__ = ()
    _fields_ = (
        ("images", int64), ("channels", int64), ("height", int64), ("width", int64),
        ("out_height", int64), ("out_width", int64), ("kernel", int64), ("stride_h", int64), ("stride_w", int64),
        ("top", int64), ("left", int64),
        ("x", pointer), ("steps", pointer), ("step_stride", int64), ("qmin", float32), ("qmax", float32),
        ("weight", pointer), ("weight_scale", pointer), ("scale_stride", int64),
        ("out", pointer), ("grad", pointer), ("grad_x", pointer), ("grad_weight", pointer),
        ("scratch", pointer), ("workers", int64),
    )  # fmt: skip


@cache
def loaded() -> ctypes.CDLL | None:
    """Return the compiled passes, whether they run here or not; None where there are none, or of another source."""
    try:
        found = ctypes.CDLL(str(LIBRARY))
        for name, task in (("winograd", Winograd), ("depthwise", Depthwise)):
            size, scratch = getattr(found, f"asq_{name}_size"), getattr(found, f"asq_{name}_scratch")
            scratch.argtypes, scratch.restype, size.restype = (ctypes.POINTER(task),), int64, int64
            if size() != ctypes.sizeof(task):
                return None
    except (OSError, AttributeError):  # AttributeError: it was compiled from an older source
        return None
    for name, task in (("winograd_gradients", Winograd), ("depthwise", Depthwise), ("depthwise_gradients", Depthwise)):
        function = getattr(found, f"asq_{name}")
        function.argtypes, function.restype = (ctypes.POINTER(task), pointer), None
    return found


@cache
def find_library() -> ctypes.CDLL | None:
    """Return the compiled passes; None where there are none, or none that run here."""
    found = loaded()
    return found if found is not None and found.asq_products_supported() else None


def library() -> ctypes.CDLL:
    """Return the compiled passes, which are there."""
    found = find_library()
    assert found is not None
    return found


def workers_for(images: int) -> int:
    """Return how many share a batch: each has a part of it, which does not depend on who gets to it first."""
    return max(1, min(torch.get_num_threads(), images)) if threads_of_torch() else 1
