"""Batch norm in training on a CPU, by the compiled passes of `csrc/batch_norm.c`."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from asqcli.quant.kernels.native import threads_of_torch

LIBRARY = Path(__file__).with_name("csrc") / "batch_norm.so"  # beside its source, where Python looks for no modules
_pointer, _int64, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class BatchNorm(ctypes.Structure):
    """As in csrc/batch_norm.c, field for field."""

    __slots__ = ()  # a field that the struct does not have cannot be set
    _fields_ = (
        ("rows", _int64), ("channels", _int64), ("rounded", _int64), ("x", _pointer), ("grad", _pointer),
        ("out", _pointer), ("weight", _pointer), ("bias", _pointer), ("mean", _pointer), ("inverse", _pointer),
        ("running_mean", _pointer), ("running_var", _pointer), ("momentum", _float), ("eps", _float),
        ("of_weight", _pointer), ("of_bias", _pointer), ("factors", _pointer), ("sums", _pointer),
    )  # fmt: skip


def works(_device: torch.device) -> bool:
    """Are the passes there, and can they have as many threads as PyTorch?"""
    return find_library() is not None and (threads_of_torch() is not None or torch.get_num_threads() == 1)


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalized batch, and (mean, 1 / deviation) of each channel, (C,)."""
    out = torch.empty_like(x)
    mean, inverse = (torch.empty(x.shape[1], dtype=torch.float32, device="cpu") for _ in range(2))
    given = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    task, _kept = _task(x, out=out, mean=mean, inverse=inverse, **given)
    task.momentum, task.eps = momentum, eps
    _library().asq_batch_norm(ctypes.byref(task), threads_of_torch())
    return out, mean, inverse


def backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, inverse: Tensor, *, of_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of `x`, where it is asked for, of weight and bias."""
    grad_x = torch.empty_like(x) if of_x else None
    of_weight, of_bias = torch.empty_like(mean), torch.empty_like(mean)
    given = {"weight": weight, "mean": mean, "inverse": inverse, "of_weight": of_weight, "of_bias": of_bias}
    task, _kept = _task(x, grad=grad, out=grad_x, **given)
    _library().asq_batch_norm_gradients(ctypes.byref(task), threads_of_torch())
    return grad_x, of_weight, of_bias


def _task(x: Tensor, **tensors: Tensor | None) -> tuple[BatchNorm, object]:
    """Return what is to be done, and what must live as long as that."""
    channels = x.shape[1]
    task = BatchNorm(
        rows=x.numel() // channels, channels=channels, rounded=int(x.dtype == torch.bfloat16), x=x.data_ptr(),
        **{name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None},
    )  # fmt: skip
    sums = torch.empty(_library().asq_batch_norm_sums(ctypes.byref(task)), dtype=torch.float64, device="cpu")
    factors = torch.empty(3 * channels, dtype=torch.float32, device="cpu")
    task.sums, task.factors = sums.data_ptr(), factors.data_ptr()
    return task, (sums, factors)


@cache
def find_library() -> ctypes.CDLL | None:
    """Return the compiled passes; None where there are none, of another source, or none that run here."""
    try:
        found = ctypes.CDLL(str(LIBRARY))
        found.asq_batch_norm_size.restype = _int64
        if found.asq_batch_norm_size() != ctypes.sizeof(BatchNorm) or not found.asq_batch_norm_supported():
            return None
        found.asq_batch_norm_sums.argtypes = (ctypes.POINTER(BatchNorm),)
        found.asq_batch_norm_sums.restype = _int64
        for name in ("asq_batch_norm", "asq_batch_norm_gradients"):
            function = getattr(found, name)
            function.argtypes, function.restype = (ctypes.POINTER(BatchNorm), _pointer), None
    except (OSError, AttributeError):  # AttributeError: it was compiled from an older source
        return None
    return found


def _library() -> ctypes.CDLL:
    found = find_library()
    assert found is not None
    return found
