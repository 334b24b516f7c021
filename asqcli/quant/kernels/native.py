"""The compiled passes of `csrc/`, for float32 tensors on the CPU that lie dense in memory.

What is rounded, codes, and their gradients may be bfloat16, and results of products of codes are.
"""

from __future__ import annotations

import ctypes
from array import array
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from asqcli.quant.kernels.grid import Grid, UniformGrid, bounds
from asqcli.quant.kernels.memory import ROUNDED, dense, groups, is_dense, is_plain, laid_out_as, shares_by_groups

LIBRARY = Path(__file__).with_name("csrc") / "fake_quant.so"  # beside its source, where Python looks for no modules
_pointer, _int64, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Grid(ctypes.Structure):
    __slots__ = ()  # here and below: a field that the struct does not have cannot be set
    _fields_ = (("qmin", _float), ("qmax", _float), ("count", _int64), ("boundaries", _pointer), ("levels", _pointer))


class Pass(ctypes.Structure):
    __slots__ = ()
    _fields_ = (
        ("x", _pointer), ("grad", _pointer), ("step", _pointer), ("out", _pointer), ("grad_step", _pointer),
        ("groups", _int64), ("size", _int64), ("step_stride", _int64), ("grid", _Grid), ("in_codes", _int64),
        ("rounded_x", _pointer), ("grad_of_codes", _pointer), ("rounded_out", _pointer),
    )  # fmt: skip


class Adapted(ctypes.Structure):
    __slots__ = ()
    _fields_ = (
        ("rounding", Pass), ("pixels", _int64), ("channels", _int64), ("hidden_count", _int64), ("planes", _int64),
        ("step_size", _float), ("weight1", _pointer), ("bias1", _pointer), ("weight2", _pointer), ("bias2", _pointer),
        ("beta", _pointer), ("means", _pointer), ("hidden", _pointer), ("grad_t", _pointer), ("grad_hidden", _pointer),
        ("most_workers", _int64), ("samples_in_float", _pointer),
    )  # fmt: skip


class _Scaled(ctypes.Structure):
    __slots__ = ()
    _fields_ = (
        ("x", _pointer), ("out", _pointer), ("of_samples", _pointer), ("of_channels", _pointer), ("samples", _int64),
        ("pixels", _int64), ("channels", _int64), ("sample_stride", _int64), ("channel_stride", _int64),
        ("planes", _int64),
    )  # fmt: skip


def takes(x: Tensor, scale: Tensor | None = None) -> bool:
    """Can the passes work on such tensors, by a scale for all values or one for each index of the first dimension?

    Without a scale: is `x` float32, as all but what is rounded by one has to be?
    """
    if loaded() is None or not x.is_cpu:
        return False
    if scale is None:
        return is_plain(x)
    return is_plain(x, *ROUNDED) and _is_plain(scale) and shares_by_groups(x, scale)


def fake_quantize(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """As `dispatch.fake_quantize`."""
    return _rounded(x, scale, grid, None)


def codes(x: Tensor, scale: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """As `dispatch.codes`."""
    return _rounded(x, scale, grid, dtype)


def _rounded(x: Tensor, scale: Tensor, grid: Grid, codes_in: torch.dtype | None) -> Tensor:
    x = dense(x)
    rounded = torch.empty_like(x, dtype=codes_in)
    task, _kept = fill_pass(x, scale, grid, rounded, in_codes=codes_in is not None)
    compiled().asq_fake_quantize(ctypes.byref(task))
    return rounded


def fake_quantize_backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """As `dispatch.fake_quantize_backward`."""
    return _backward(grad, x, scale, grid, of_codes=False)


def codes_backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """As `dispatch.codes_backward`."""
    return _backward(grad, x, scale, grid, of_codes=True)


def _backward(grad: Tensor, x: Tensor, scale: Tensor, grid: Grid, *, of_codes: bool) -> tuple[Tensor, Tensor]:
    x = dense(x)
    grad_x = torch.empty_like(x)
    shared = scale.numel() == 1
    sums = torch.empty(groups(x) if shared else scale.shape, dtype=torch.float64)
    task, _kept = fill_pass(x, scale, grid, grad_x)
    _kept_grad = fill_gradient(task, grad, x, of_codes=of_codes)
    task.grad_step = sums.data_ptr()
    compiled().asq_fake_quantize_backward(ctypes.byref(task))
    return grad_x, sums.sum().to(scale.dtype).reshape(scale.shape) if shared else sums.to(scale.dtype)


def can_scale(x: Tensor, of_samples: Tensor, of_channels: Tensor) -> bool:
    """Can `scaled` work on such tensors?"""
    if loaded() is None or not (x.is_cpu and is_plain(x, torch.bfloat16) and x.dim() > of_channels.dim() > 0):
        return False
    if not is_dense(x):
        return False
    if of_channels.dim() == 1 and not x.is_contiguous():
        return False  # features in another order of memory: neither planes nor side by side
    return (
        all(_is_plain(scale) for scale in (of_samples, of_channels))
        and of_samples.numel() in (1, len(x))
        and of_channels.numel() in (1, x.shape[x.dim() - of_channels.dim()])
    )


def scaled(x: Tensor, of_samples: Tensor, of_channels: Tensor) -> Tensor:
    """As `dispatch.scaled`, where `can_scale`."""
    out = torch.empty_like(x)
    of_samples, of_channels = of_samples.contiguous(), of_channels.contiguous()
    dimension = x.dim() - of_channels.dim()
    channels = x.shape[dimension]
    task = _Scaled(
        x=x.data_ptr(), out=out.data_ptr(), of_samples=of_samples.data_ptr(), of_channels=of_channels.data_ptr(),
        samples=len(x), pixels=x.numel() // max(len(x) * channels, 1),
        channels=channels, sample_stride=int(of_samples.numel() > 1), channel_stride=int(of_channels.numel() > 1),
        planes=int(x.stride(dimension) != 1),
    )  # fmt: skip
    if x.numel():
        compiled().asq_scaled(ctypes.byref(task))
    return out


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


def fill_pass(
    x: Tensor, scale: Tensor, grid: Grid, out: Tensor | None, *, in_codes: bool = False
) -> tuple[Pass, object]:
    """Return the arguments of a pass, and what must live as long as they."""
    count, scale, (native_grid, kept) = groups(x), scale.contiguous(), _native_grid(grid)
    task = Pass(
        step=scale.data_ptr(), groups=count, size=x.numel() // max(count, 1), step_stride=int(scale.numel() > 1),
        grid=native_grid, in_codes=int(in_codes),
    )  # fmt: skip
    for name, tensor in (("x", x), ("out", out)):
        if tensor is not None:
            setattr(task, f"rounded_{name}" if tensor.dtype == torch.bfloat16 else name, tensor.data_ptr())
    return task, (scale, kept)


def fill_gradient(task: Pass, grad: Tensor, x: Tensor, *, of_codes: bool) -> Tensor:
    """Give a pass over `x` the gradient that comes in; return what must live as long as it."""
    if of_codes:
        grad = laid_out_as(x, grad.to(torch.bfloat16))
        task.grad_of_codes = grad.data_ptr()
    else:
        grad = laid_out_as(x, grad.float())
        task.grad = grad.data_ptr()
    return grad


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
    """Return the compiled passes, or None where they were not compiled, or of another source."""
    try:
        passes = ctypes.CDLL(str(LIBRARY))
        for name, task in (("pass", Pass), ("adapted", Adapted), ("scaled", _Scaled)):
            size = getattr(passes, f"asq_{name}_size")
            size.restype = _int64
            if size() != ctypes.sizeof(task):
                return None
    except (OSError, AttributeError):  # AttributeError: it was compiled from an older source
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
