"""Pools and upsampling; parameters as torch's."""

from __future__ import annotations

from asqcli.arithmetic.torch_mode import pair
from asqcli.arithmetic.windows import Pair, adaptive_windows, pieces_with_ceil, reaches_beyond
from asqcli.artifact import nodes
from asqcli.artifact.nodes.base import Windows
from asqcli.export.graph import Call, Unsupported, Value
from asqcli.export.operations.pads import with_zeros_around
from asqcli.export.operations.registry import lowers
from asqcli.export.operations.slices import sliced

NEAREST = "use `nearest` with a whole factor; a convolution behind it can learn to smooth"


@lowers("max_pool2d", "max_pool2d_with_indices", says="max pools")
def max_pool(
    call: Call, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
) -> Value:
    if return_indices:
        raise Unsupported("it returns indices")
    kernel_size, padding, dilation = pair(kernel_size), pair(padding), pair(dilation)
    stride = pair(stride) if stride else kernel_size
    # `ceil_mode` asks for windows beyond the lower and right border: as much border as the last of them needs.
    made, sides = call.result_shape[1:], call.image_of(input)[1:]
    borders = [
        max(0, (out - 1) * s + d * (k - 1) + 1 - n - p)
        for out, n, s, d, k, p in zip(made, sides, stride, dilation, kernel_size, padding, strict=True)
    ]
    return call.emit(
        nodes.MaxPool, input, kernel_size=kernel_size, stride=stride, padding=(*padding, *borders), dilation=dilation
    )


@lowers("avg_pool2d", says="average pools")
def avg_pool(
    call: Call,
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
) -> Value:
    kernel_size, padding = pair(kernel_size), pair(padding)
    stride = pair(stride) if stride else kernel_size
    if divisor_override is not None:
        raise Unsupported("the engine's average pools have no `divisor_override`")
    if ceil_mode and reaches_beyond(call.image_of(input)[1:], kernel_size, stride, padding):
        return _avg_pool_beyond(call, input, kernel_size, stride, padding, count_include_pad)
    return call.emit(
        nodes.AvgPool,
        input,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        count_include_pad=bool(count_include_pad),
    )


def _avg_pool_beyond(
    call: Call, input: Value, kernel_size: Pair, stride: Pair, padding: Pair, count_include_pad: bool
) -> Value:
    """Put the windows that end beyond the border behind the others: each is a pool of what it sees of the image."""
    channels, *image = call.image_of(input)
    sides = zip(image, kernel_size, stride, padding, strict=True)
    down, across = (pieces_with_ceil(*side, border_counts=bool(count_include_pad)) for side in sides)
    if down is None or across is None:
        raise Unsupported("by `ceil_mode` it has a window that begins beyond the image, or is larger")
    if count_include_pad and any(padding):
        input = with_zeros_around(call, input, [(0, 0), *[(side, side) for side in padding]])
    rows = []
    for first, end, height, above in down:
        row = sliced(call, input, 1, slice(first, end, 1))
        parts = []
        for left, right, width, beside in across:
            part = sliced(call, row, 2, slice(left, right, 1))
            windows = Windows((height, width), stride, (above, beside, above, beside)).count(call.shape_of(part))
            parts.append(call.emit(
                nodes.AvgPool, part, kernel_size=(height, width), stride=stride, padding=(above, beside),
                count_include_pad=False, gives=(channels, *windows),
            ))  # fmt: skip
        rows.append(_joined(call, parts, 2))
    return _joined(call, rows, 1)


def _joined(call: Call, parts: list[Value], axis: int) -> Value:
    if len(parts) == 1:
        return parts[0]
    shape = list(call.shape_of(parts[0]))
    shape[axis] = sum(call.shape_of(part)[axis] for part in parts)
    return call.emit(nodes.Concat, *parts, axis=axis, gives=tuple(shape))


@lowers("adaptive_max_pool2d", says="adaptive max pools")
def adaptive_max_pool(call: Call, input, output_size, return_indices=False) -> Value:
    if return_indices:
        raise Unsupported("it returns indices")
    sides, made = call.image_of(input)[1:], call.result_shape[1:]
    if not any(n % out for n, out in zip(sides, made, strict=True)):
        return largest_of_windows(call, input, (sides[0] // made[0], sides[1] // made[1]))
    for axis, out in enumerate(made, start=1):  # windows that may overlap, one by one along each side
        windows = adaptive_windows(call.shape_of(input)[axis], out)
        parts = [sliced(call, input, axis, slice(first, end, 1)) for first, end in windows]
        sizes = [(end - first, 1) if axis == 1 else (1, end - first) for first, end in windows]
        input = _joined(call, [largest_of_windows(call, *of_one) for of_one in zip(parts, sizes, strict=True)], axis)
    return input


def largest_of_windows(call: Call, value: Value, window: Pair) -> Value:
    """Return the largest number of each window of a size, side by side."""
    channels, height, width = call.shape_of(value)
    if window == (1, 1):
        return value
    return call.emit(
        nodes.MaxPool, value, kernel_size=window, stride=window, padding=(0,) * 4, dilation=(1, 1),
        gives=(channels, height // window[0], width // window[1]),
    )  # fmt: skip


@lowers("interpolate", says="nearest resampling")
def interpolate(
    call: Call, input, size=None, scale_factor=None, mode="nearest", align_corners=None,
    recompute_scale_factor=None, antialias=False,
) -> Value:  # fmt: skip
    sides, made = call.image_of(input)[1:], call.result_shape[1:]
    if mode not in ("nearest", "nearest-exact") or len(made) != 2:
        raise Unsupported(f"the engine resamples images to the nearest, and not by `{mode}`", NEAREST)
    if not any(out % n for out, n in zip(made, sides, strict=True)):
        return call.emit(nodes.AdaptiveAvgPool, input, output_size=made)  # windows of one pixel
    if mode == "nearest-exact" or any(n % out for out, n in zip(made, sides, strict=True)):
        raise Unsupported(f"it makes {made} pixels of {sides}, and the engine resamples by whole factors", NEAREST)
    for axis, (out, n) in enumerate(zip(made, sides, strict=True), start=1):
        input = sliced(call, input, axis, slice(0, n, n // out))
    return input


@lowers("adaptive_avg_pool2d", says="adaptive average pools")
def adaptive_avg_pool(call: Call, input, output_size) -> Value:
    return call.emit(nodes.AdaptiveAvgPool, input, output_size=call.result_shape[1:])
