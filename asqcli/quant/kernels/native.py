"""The compiled passes of `csrc/fake_quant.c`, for float32 tensors on the CPU that lie dense in memory."""

from __future__ import annotations

import ctypes
from array import array
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from asqcli.quant.kernels.grid import Grid, UniformGrid, bounds
from asqcli.quant.kernels.memory import dense, groups, is_plain, laid_out_as, shares_by_groups

LIBRARY = Path(__file__).with_name("csrc") / "fake_quant.so"  # beside its source, where Python looks for no modules
_pointer, _int64, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Grid(ctypes.Structure):
    __slots__ = ()  # here and below: a field that the struct does not have cannot be set
    _fields_ = (("qmin", _float), ("qmax", _float), ("count", _int64), ("boundaries", _pointer), ("levels", _pointer))


class Pass(ctypes.Structure):
    __slots__ = ()
    _fields_ = (
        ("x", _pointer), ("grad", _pointer), ("step", _pointer), ("out", _pointer), ("grad_step", _pointer),
        ("groups", _int64), ("size", _int64), ("step_stride", _int64), ("grid", _Grid),
    )  # fmt: skip


def takes(x: Tensor, scale: Tensor | None = None) -> bool:
    """Can the passes work on such tensors, by a scale for all values or one for each index of the first dimension?"""
    if loaded() is None or not (_is_plain(x) and (scale is None or _is_plain(scale))):
        return False
    return scale is None or shares_by_groups(x, scale)


def fake_quantize(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """As `dispatch.fake_quantize`."""
    x = dense(x)
    x_hat = torch.empty_like(x)
    task, _kept = fill_pass(x, scale, grid, out=x_hat)
    compiled().asq_fake_quantize(ctypes.byref(task))
    return x_hat


def fake_quantize_backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """As `dispatch.fake_quantize_backward`."""
    x = dense(x)
    grad_x = torch.empty_like(x)
    grad = laid_out_as(x, grad)
    shared = scale.numel() == 1
    sums = torch.empty(groups(x) if shared else scale.shape, dtype=torch.float64)
    task, _kept = fill_pass(x, scale, grid, out=grad_x)
    task.grad, task.grad_step = grad.data_ptr(), sums.data_ptr()
    compiled().asq_fake_quantize_backward(ctypes.byref(task))
    return grad_x, sums.sum().to(scale.dtype).reshape(scale.shape) if shared else sums.to(scale.dtype)


def round_rows(weight: Tensor, qmax: int, smallest: float) -> Tensor:
    """As `dispatch.round_rows`."""
    weight = weight.contiguous()
    rounded = torch.empty_like(weight)
    compiled().asq_round_rows(
        _pointer(weight.data_ptr()), _pointer(rounded.data_ptr()), _int64(len(weight)), _int64(weight.shape[1]),
        _float(qmax), _float(smallest),
    )  # fmt: skip
    return rounded


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_cpu and is_plain(tensor)


def fill_pass(x: Tensor, scale: Tensor, grid: Grid, out: Tensor | None) -> tuple[Pass, object]:
    """Return the arguments of a pass, and what must live as long as they."""
    count, scale, (native_grid, kept) = groups(x), scale.contiguous(), _native_grid(grid)
    task = Pass(
        x=x.data_ptr(), step=scale.data_ptr(), out=None if out is None else out.data_ptr(), groups=count,
        size=x.numel() // max(count, 1), step_stride=int(scale.numel() > 1), grid=native_grid,
    )  # fmt: skip
    return task, (scale, kept)


@cache
def _native_grid(grid: Grid) -> tuple[_Grid, object]:
    """Return the struct of a grid, and the arrays that it points into."""
    qmin, qmax = bounds(grid)
    if isinstance(grid, UniformGrid):
        return _Grid(qmin=qmin, qmax=qmax), None
    arrays = array("f", grid.boundaries), array("f", reversed(grid.magnitudes))
    (boundaries, count), (levels, _) = (values.buffer_info() for values in arrays)
    return _Grid(qmin=qmin, qmax=qmax, count=count, boundaries=boundaries, levels=levels), arrays


def compiled() -> ctypes.CDLL:
    """Return the compiled passes, where `takes` found them."""
    passes = loaded()
    assert passes is not None
    return passes


@cache
def loaded() -> ctypes.CDLL | None:
    """Return the compiled passes, or None where they were not compiled."""
    try:
        passes = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    if (parallel := threads_of_torch()) is not None:
        passes.asq_use_threads(_pointer(parallel))
    return passes


@cache
def threads_of_torch() -> int | None:
    """Return the address of the function by which PyTorch shares work among its threads.

    None where that is not OpenMP's of GNU: the passes run on one thread then.
    """
    try:
        # A symbol is looked for in a library and all that it depends on. Others bring an OpenMP of their own.
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(torch_cpu.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None
