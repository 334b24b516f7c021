"""One convolution by itself, on a batch, by levels that change from call to call: what training multiplies by."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate

import numpy as np

from asqcli.engine.native.bindings import (
    BLOCK,
    LAYOUT_PIXELS,
    OP_CONV,
    PLAIN,
    Batch,
    EpilogueTail,
    Op,
    compiled_kernels,
    library,
)
from asqcli.engine.native.layout import Layout, bare_step, int16_taps, padded
from asqcli.engine.native.memory import LINE

INT32_MAX = 2**31 - 1
WITHOUT_DOT_PRODUCT = "avx2"  # the kernel without an instruction that adds products in 32 bits


@dataclass(frozen=True)
class Convolution:
    """What does not change from call to call.

    Args:
        layout: of pixels.
        stride: (rows, columns).
        qmin, qmax: bounds of the activations' codes.
        largest_level: magnitude of a weight's, at most 128.
    """

    layout: Layout
    stride: tuple[int, int]
    qmin: int
    qmax: int
    largest_level: int

    @property
    def out_shape(self) -> tuple[int, int]:
        """(height, width) of an output, below 1 where a window does not fit."""
        lay = self.layout
        sides = zip((lay.rows, lay.columns), lay.kernel, self.stride, lay.dilation, strict=True)
        height, width = ((n - (k - 1) * d - 1) // s + 1 for n, k, s, d in sides)
        return height, width

    @property
    def row(self) -> int:
        """Weights of an output."""
        return self.layout.per_group * math.prod(self.layout.kernel)

    @property
    def fits(self) -> bool:
        """Is there an output, and do 32 bits hold every sum, and every place in an image?"""
        sums = max(self.qmax - self.qmin, -self.qmin) * self.largest_level * self.row
        return min(self.out_shape) > 0 and max(sums, self.layout.code_bytes) <= INT32_MAX

    @property
    def gains(self) -> bool:
        """Do whole numbers take less time here than floats, as measured (bench/RESULTS.md)?"""
        every_pixel = self.stride == (1, 1) or self.layout.kernel != (1, 1)  # codes are made of all
        depthwise = self.layout.groups == self.layout.channels > 1
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
    step_sizes: tuple[int, int],
    weight: int,
    weight_scale: tuple[int, int],
    bias: int | None,
    out: int,
    *,
    count: int,
    threads: int,
    parallel: int | None,
) -> None:
    """Quantize a batch of images and convolve their codes, exactly; then scale each sum and add the bias.

    All memory is given by its address, and holds float32. Of an image in which there is a NaN, and of weights, all that
    is made is NaN.

    Args:
        images: (count, height, width, channels).
        step_sizes: and their number, `count` or 1 for all images; real units, above 0.
        weight: whole numbers of the scale, (outputs, channels / groups, rows, columns).
        weight_scale: real value of level 1, and their number, one for each output or 1 for all.
        bias: (outputs,), or None.
        out: (count, *out_shape, outputs), for the result.
        threads: the most that share the work.
        parallel: address of GOMP_parallel, which lets them; or None.
    """
    plan, fastest = _plan(convolution), fastest_kernel()
    assert fastest is not None
    workers = max(1, min(threads, count)) if parallel else 1
    room, places = plan.room(workers)
    batch = Batch(
        kernel=fastest[1], number=count, workers=workers, op=ctypes.addressof(plan.op), images=images,
        step_sizes=step_sizes[0], step_stride=int(step_sizes[1] > 1), out=out, image_size=plan.image_size,
        out_size=plan.out_size, weight=weight, weight_scale=weight_scale[0], scale_stride=int(weight_scale[1] > 1),
        bias=bias, row=plan.row, places=plan.places.ctypes.data, packed_size=plan.places.size,
        codes_size=plan.sizes["codes"], scale_size=plan.sizes["scale"] // 4, **places,
    )  # fmt: skip
    library().asq_convolve(ctypes.byref(batch), parallel)
    del room  # whose memory was used


class _Plan:
    """The step of a convolution but for its weights and its memory.

    Attributes:
        sizes: bytes of each piece of scratch, whole cache lines; of `codes` and `scale` for each worker.
        places: where each packed weight lies among the weights; gaps come after them all.
    """

    def __init__(self, convolution: Convolution) -> None:
        layout, self.row = convolution.layout, convolution.row
        groups, outputs, channels = layout.groups, layout.outputs, layout.channels
        self.places = _places(outputs, channels, groups, layout.kernel, layout.dilation)
        self.offsets = layout.offsets()  # as long as the step points there
        conv = bare_step(
            layout, convolution.stride, qmin=convolution.qmin, qmax=convolution.qmax,
            largest_level=convolution.largest_level,
        )  # fmt: skip
        conv.taps, conv.offset = self.offsets.size, self.offsets.ctypes.data
        conv.tail = EpilogueTail(low=-math.inf, high=math.inf)
        out_h, out_w = convolution.out_shape
        self.op = Op(
            kind=OP_CONV, height=layout.height, width=layout.width, channels=channels, out_h=out_h, out_w=out_w,
            outputs=outputs, conv=conv,
        )  # fmt: skip
        self.image_size, self.out_size = layout.height * layout.width * channels, out_h * out_w * outputs
        numbers = 4 * groups * padded(outputs // groups, BLOCK)
        sizes = {
            "packed": self.places.size, "levels": outputs * self.row + 1, "compensation": numbers,
            "padded_scale": numbers, "padded_bias": numbers, "codes": layout.code_bytes, "scale": numbers,
        }  # fmt: skip
        self.sizes = {name: padded(size, LINE) for name, size in sizes.items()}

    def room(self, workers: int) -> tuple[np.ndarray, dict[str, int]]:
        """Return memory for one call, and the address of each piece, which begins at a cache line."""
        sizes = {**self.sizes, **{name: workers * self.sizes[name] for name in ("codes", "scale")}}
        memory = np.empty(sum(sizes.values()) + LINE, np.uint8)
        start = padded(memory.ctypes.data, LINE)
        return memory, dict(zip(sizes, accumulate(sizes.values(), initial=start), strict=False))


_plan = lru_cache(maxsize=256)(_Plan)  # images of ever new sizes must not fill the memory


@lru_cache(maxsize=256)
def _places(outputs: int, channels: int, groups: int, kernel: tuple[int, int], dilation: tuple[int, int]) -> np.ndarray:
    """Return where each packed weight lies among the weights, int32; gaps lie after them all."""
    shape = outputs, channels // groups, *kernel
    gap = math.prod(shape)
    layout = Layout(LAYOUT_PIXELS, channels, 1, 1, outputs, groups, kernel, dilation, (0, 0, 0, 0))
    packed = layout.pack(np.arange(1, gap + 1, dtype=np.int32).reshape(shape))  # 0: nothing
    return np.where(packed == 0, gap, packed - 1).astype(np.int32).reshape(-1)
