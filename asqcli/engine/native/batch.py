"""One convolution by itself, on a batch, by levels that change from call to call: what training multiplies by."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from asqcli.engine.native.bindings import (
    BLOCK,
    LAYOUT_PIXELS,
    LAYOUT_ROW_QUADS,
    OP_CONV,
    Batch,
    ConvOp,
    EpilogueTail,
    Op,
    compiled_kernels,
    library,
)
from asqcli.engine.native.layout import Layout, by_group, by_pixels_or_rows, int16_taps, padded
from asqcli.engine.native.memory import LINE

INT32_MAX = 2**31 - 1
# Kernels: of plain loops; and without an instruction that adds products in 32 bits.
PLAIN, WITHOUT_DOT_PRODUCT = "scalar", "avx2"


@dataclass(frozen=True)
class Convolution:
    """What does not change from call to call.

    Args:
        channels, height, width: of an image, whose channels lie side by side.
        kernel, stride, padding, dilation: (rows, columns).
        qmin, qmax: bounds of the activations' codes.
        largest_level: magnitude of a weight's, at most 127.
    """

    channels: int
    height: int
    width: int
    outputs: int
    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    qmin: int
    qmax: int
    largest_level: int

    @property
    def out_shape(self) -> tuple[int, int]:
        """(height, width) of an output, below 1 where a window does not fit."""
        sides = zip((self.height, self.width), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((n + 2 * p - (k - 1) * d - 1) // s + 1 for n, k, s, p, d in sides)
        return height, width

    @property
    def fits(self) -> bool:
        """Is there an output, and do 32 bits hold every sum, and every place in an image?"""
        if min(self.out_shape) <= 0:
            return False
        taps = self.channels // self.groups * math.prod(self.kernel)
        sums = max(self.qmax - self.qmin, -self.qmin) * self.largest_level * taps
        return max(sums, _plan(self).layout.code_bytes) <= INT32_MAX

    @property
    def gains(self) -> bool:
        """Do whole numbers take less time here than floats, as measured (bench/RESULTS.md)?"""
        every_pixel = self.stride == (1, 1) or self.kernel != (1, 1)  # codes are made of all
        depthwise = self.groups == self.channels > 1
        fastest = fastest_kernel()
        if fastest is None or depthwise or not every_pixel:
            return False
        in_16_bits = int16_taps(self.qmax - self.qmin, self.largest_level) > 0
        return in_16_bits or fastest[0] != WITHOUT_DOT_PRODUCT


@cache
def fastest_kernel() -> tuple[str, int] | None:
    """Return name and index of the best kernel that runs here; None where only plain loops do."""
    kernels = ((name, index) for name, (index, supported) in compiled_kernels().items() if supported)
    return next((kernel for kernel in kernels if kernel[0] != PLAIN), None)


def convolve(
    convolution: Convolution,
    images: int,
    step_sizes: np.ndarray,
    levels: np.ndarray,
    weight_scale: np.ndarray,
    bias: np.ndarray | None,
    out: int,
    *,
    count: int,
    threads: int,
    parallel: int | None,
) -> None:
    """Quantize a batch of images and convolve their codes, exactly; then scale each sum and add the bias.

    An image in which there is a NaN has only NaN for outputs.

    Args:
        images: address of (count, height, width, channels), float32.
        step_sizes: of each image or, (1,), of all; real units, above 0; float32.
        levels: (outputs, channels / groups, rows, columns), int8.
        weight_scale: real value of level 1, (outputs,) or (1,), float32.
        bias: (outputs,), or None; float32.
        out: address of (count, *out_shape, outputs), float32.
        threads: the most that share the work.
        parallel: address of GOMP_parallel, which lets them; or None.
    """
    plan, fastest = _plan(convolution), fastest_kernel()
    assert fastest is not None
    _, kernel = fastest
    op = Op.from_buffer_copy(plan.op)
    arrays = [_aligned(array) for array in plan.arrays(levels, weight_scale, bias)]
    packed, compensation, scales, *biases = (array.ctypes.data for array in arrays)
    op.conv.packed, op.conv.compensation, op.conv.weight_scale = packed, compensation, scales
    op.conv.bias = biases[0] if biases else None
    workers = max(1, min(threads, count)) if parallel else 1
    codes_size, scale_size = padded(plan.layout.code_bytes, LINE), padded(len(plan.scales), BLOCK)
    codes, scale = _room(workers * codes_size, np.uint8), _room(workers * scale_size, np.float32)
    steps = np.ascontiguousarray(step_sizes, np.float32)
    batch = Batch(
        kernel=kernel, number=count, workers=workers, op=ctypes.pointer(op), images=images,
        step_sizes=steps.ctypes.data, out=out, image_size=op.height * op.width * op.channels,
        out_size=op.out_h * op.out_w * op.outputs, step_stride=int(steps.size > 1), codes=codes.ctypes.data,
        scale=scale.ctypes.data, codes_size=codes_size, scale_size=scale_size,
    )  # fmt: skip
    library().asq_convolve(ctypes.byref(batch), parallel)


class _Plan:
    """The step of a convolution but for its weights and its memory."""

    def __init__(self, convolution: Convolution) -> None:
        c = self.convolution = convolution
        padding = (*c.padding, *c.padding)
        self.layout = layout = by_pixels_or_rows(
            Layout(LAYOUT_PIXELS, c.channels, c.height, c.width, c.outputs, c.groups, c.kernel, c.dilation, padding)
        )
        self.parts = 0 if layout.kind == LAYOUT_ROW_QUADS else layout.groups  # of the arrays over outputs
        self.offsets = layout.offsets()
        self.scales = by_group(np.zeros(c.outputs, np.float32), self.parts).reshape(-1)
        top, left, bottom, right = padding
        conv = ConvOp(
            top=top, left=left, bottom=bottom, right=right, kernel_h=c.kernel[0], kernel_w=c.kernel[1],
            stride_h=c.stride[0], stride_w=c.stride[1], dilation_h=c.dilation[0], dilation_w=c.dilation[1],
            groups=c.groups, qmin=c.qmin, qmax=c.qmax, layout=layout.kind, group_stride=layout.group_stride,
            taps=len(self.offsets), int16_taps=int16_taps(c.qmax - c.qmin, c.largest_level),
            offset=self.offsets.ctypes.data, tail=EpilogueTail(low=-math.inf, high=math.inf),
        )  # fmt: skip
        out_h, out_w = c.out_shape
        self.op = Op(
            kind=OP_CONV, height=c.height, width=c.width, channels=c.channels, out_h=out_h, out_w=out_w,
            outputs=c.outputs, conv=conv,
        )  # fmt: skip

    def arrays(self, levels: np.ndarray, weight_scale: np.ndarray, bias: np.ndarray | None) -> list[np.ndarray]:
        """Return packed weights, compensation, scales and, where there is one, bias."""
        qmin = self.convolution.qmin
        sums = levels.sum(axis=(1, 2, 3), dtype=np.int32) if qmin else np.zeros(self.layout.outputs, np.int32)
        over_outputs = [qmin * sums, np.broadcast_to(weight_scale, self.layout.outputs)]
        over_outputs += [] if bias is None else [bias]
        return [self.layout.pack(levels), *(by_group(values, self.parts) for values in over_outputs)]


_plan = cache(_Plan)


def _room(size: int, dtype: type) -> np.ndarray:
    """Return `size` numbers of any value, which begin at a cache line."""
    memory = np.empty(size * np.dtype(dtype).itemsize + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size * np.dtype(dtype).itemsize].view(dtype)


def _aligned(array: np.ndarray) -> np.ndarray:
    """Return a copy without gaps that begins at a cache line."""
    room = _room(array.size, array.dtype.type)
    room.reshape(array.shape)[...] = array
    return room
