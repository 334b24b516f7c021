"""The compiled kernels, as ctypes sees them: `Op` and the functions of csrc/kernel.h and csrc/dispatch.c."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from asqcli.errors import MachineError

BLOCK, DEPTH, MOST_ROWS = 16, 4, 64
LAYOUT_PIXELS, LAYOUT_PLANES, LAYOUT_ROW_QUADS = range(3)
OP_CONV, OP_ELEMENTWISE, OP_MULTIPLY, OP_GATE, OP_MAX_POOL, OP_AVG_POOL, OP_ROW_SUMS, OP_MEAN, OP_COPY = range(9)
PLAIN = "scalar"  # the kernel of plain C loops, to compare with: matrix products in NumPy are faster
GATES = ("sigmoid", "silu", "hardsigmoid", "hardswish", "gelu", "gelu_tanh")
LIBRARY = Path(__file__).parents[1] / "csrc" / "native.so"  # beside its source, where Python looks for no modules

Int, _float, _pointer = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class AdapterLayer(ctypes.Structure):
    __slots__ = ()  # here and below: a field that the struct does not have cannot be set
    _fields_ = (("int8_weight", _pointer), ("float_weight", _pointer), ("row_scale", _pointer), ("bias", _pointer),
                ("inputs", ctypes.c_int), ("outputs", ctypes.c_int))  # fmt: skip


class Adapter(ctypes.Structure):
    __slots__ = ()
    _fields_ = (
        ("layer_count", Int), ("beta_output", Int), ("layers", AdapterLayer * 2), ("x_sums", _pointer),
        ("sums", _pointer), ("means", _pointer), ("scratch_width", Int),
    )  # fmt: skip


class Pool(ctypes.Structure):
    __slots__ = ()
    _fields_ = (
        ("kernel_h", Int), ("kernel_w", Int), ("stride_h", Int), ("stride_w", Int), ("dilation_h", Int),
        ("dilation_w", Int), ("top", Int), ("left", Int), ("out_h", Int), ("out_w", Int), ("ring", Int),
        ("rows", _pointer),
    )  # fmt: skip


class EpilogueTail(ctypes.Structure):
    __slots__ = ()
    _fields_ = (("g", _pointer), ("b", _pointer), ("y", _pointer), ("low", _float), ("high", _float))


class ConvOp(ctypes.Structure):
    __slots__ = ()
    _fields_ = (
        ("kernel_h", Int), ("kernel_w", Int), ("stride_h", Int), ("stride_w", Int), ("dilation_h", Int),
        ("dilation_w", Int), ("groups", Int), ("top", Int), ("left", Int), ("bottom", Int), ("right", Int),
        ("qmin", Int), ("qmax", Int), ("step_size", _float), ("as_printed", Int), ("adapter", Adapter),
        ("layout", Int), ("group_stride", Int), ("codes", _pointer),
        ("winograd", Int), ("plane", ctypes.c_int64), ("transformed", _pointer),
        ("taps", Int), ("int16_taps", Int), ("offset", _pointer), ("packed", _pointer), ("next", _pointer),
        ("compensation", _pointer), ("weight_scale", _pointer), ("scale", _pointer), ("raw", Int), ("bias", _pointer),
        ("tail", EpilogueTail), ("pool", Pool), ("strip", _pointer), ("recompute", _pointer),
    )  # fmt: skip


class ElementwiseOp(ctypes.Structure):
    __slots__ = ()
    _fields_ = (("tail", EpilogueTail), ("divisor", _pointer), ("slope", _pointer))


class MultiplyOp(ctypes.Structure):
    __slots__ = ()
    _fields_ = (("y", _pointer), ("y_is_a_pixel", Int))


class GateOp(ctypes.Structure):
    __slots__ = ()
    _fields_ = (("function", Int),)


class AvgPoolOp(ctypes.Structure):
    __slots__ = ()
    _fields_ = (("windows", _pointer), ("window_size", Int))


class MeanOp(ctypes.Structure):
    __slots__ = ()
    _fields_ = (("x_sums", _pointer),)


class CopyOp(ctypes.Structure):
    __slots__ = ()
    _fields_ = (("box", Int * 3), ("from_stride", Int * 3), ("to_stride", Int * 3))


class OfKind(ctypes.Union):
    """What a kind of step needs of its own, under the name of the kind."""

    __slots__ = ()
    _fields_ = (
        ("conv", ConvOp), ("elementwise", ElementwiseOp), ("multiply", MultiplyOp), ("gate", GateOp),
        ("max_pool", Pool), ("avg_pool", AvgPoolOp), ("mean", MeanOp), ("copy", CopyOp),
    )  # fmt: skip


class Op(ctypes.Structure):
    """A step as `Op` in kernel.h, field for field: what all kinds have, then that of its kind, as in `op.conv.taps`."""

    __slots__ = ()
    _anonymous_ = ("of_kind",)
    _fields_ = (
        ("kind", Int), ("x", _pointer), ("out", _pointer), ("row_sums", _pointer),
        ("height", Int), ("width", Int), ("channels", Int), ("out_h", Int), ("out_w", Int), ("outputs", Int),
        ("of_kind", OfKind),
    )  # fmt: skip


class Batch(ctypes.Structure):
    """A convolution of many images as `Batch` in batch.h, field for field."""

    __slots__ = ()
    _fields_ = (
        ("kernel", ctypes.c_int), ("number", ctypes.c_int), ("workers", ctypes.c_int), ("op", _pointer),
        ("images", _pointer), ("step_sizes", _pointer), ("out", _pointer), ("image_size", ctypes.c_size_t),
        ("out_size", ctypes.c_size_t), ("step_stride", ctypes.c_int),
        ("weight", _pointer), ("weight_scale", _pointer), ("bias", _pointer), ("row", ctypes.c_int),
        ("scale_stride", ctypes.c_int), ("places", _pointer), ("packed_size", ctypes.c_size_t),
        ("levels", _pointer), ("packed", _pointer), ("compensation", _pointer), ("padded_scale", _pointer),
        ("padded_bias", _pointer), ("codes", _pointer), ("scale", _pointer), ("codes_size", ctypes.c_size_t),
        ("scale_size", ctypes.c_size_t),
        ("next_image", ctypes.c_int), ("next_worker", ctypes.c_int),
    )  # fmt: skip


@cache
def find_library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where the package was installed without a compiler.

    Raises:
        MachineError: they were compiled from another source, as in an installation that follows a checkout.
    """
    if not LIBRARY.is_file():
        return None
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
        sizes = loaded.asq_op_size, loaded.asq_batch_size, loaded.asq_team_size
    except (OSError, AttributeError):  # AttributeError: it was compiled from an older source
        return None
    for size in sizes:
        size.restype = ctypes.c_size_t
    loaded.asq_kernel_name.restype = ctypes.c_char_p
    loaded.asq_peak_loop.argtypes, loaded.asq_peak_loop.restype = (ctypes.c_int, ctypes.c_int64), ctypes.c_int64
    loaded.asq_kernel_winograd.argtypes = loaded.asq_kernel_recompute.argtypes = (ctypes.c_int,)
    loaded.asq_run.argtypes = (ctypes.c_int, ctypes.POINTER(Op), ctypes.c_int)
    size = ctypes.c_size_t
    loaded.asq_run_images.argtypes = (
        *loaded.asq_run.argtypes, _pointer, ctypes.c_int, size, _pointer, _pointer, _pointer, size, _pointer,
    )  # fmt: skip
    loaded.asq_run_together.argtypes = (*loaded.asq_run.argtypes, ctypes.c_int, _pointer)
    loaded.asq_worker_loop.argtypes = (ctypes.c_int, _pointer)
    loaded.asq_shutdown.argtypes = (_pointer,)
    loaded.asq_convolve.argtypes = (ctypes.POINTER(Batch), _pointer)
    nothing = ("asq_run", "asq_run_images", "asq_convolve", "asq_worker_loop", "asq_shutdown")
    for function in (getattr(loaded, name) for name in nothing):
        function.restype = None
    for size, struct in ((loaded.asq_op_size, Op), (loaded.asq_batch_size, Batch)):
        if size() != ctypes.sizeof(struct):
            text = f"the compiled kernels are of another version of asq: they have another {struct.__name__}"
            raise MachineError(text, "install asq again")
    return loaded


def library() -> ctypes.CDLL:
    """Return the compiled kernels, which are there."""
    loaded = find_library()
    assert loaded is not None
    return loaded


@cache
def compiled_kernels() -> dict[str, tuple[int, bool]]:
    """Return name: (index, does this processor run it?) of each native kernel, the best first."""
    loaded, kernels = find_library(), {}
    while loaded is not None and (name := loaded.asq_kernel_name(len(kernels))) is not None:
        kernels[name.decode()] = (len(kernels), bool(loaded.asq_kernel_supported(len(kernels))))
    return kernels
