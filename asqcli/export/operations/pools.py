"""Pools and upsampling; parameters as torch's."""

from __future__ import annotations

from asqcli.arithmetic.torch_mode import pair
from asqcli.arithmetic.windows import reaches_beyond
from asqcli.artifact import nodes
from asqcli.artifact.nodes.base import Shape
from asqcli.export.graph import Call, Unsupported, Value
from asqcli.export.operations.registry import lowers


@lowers("max_pool2d", "max_pool2d_with_indices", says="max pools")
def max_pool(
    call: Call, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
) -> Value:
    if return_indices:
        raise Unsupported("it returns indices")
    kernel_size, padding, dilation = pair(kernel_size), pair(padding), pair(dilation)
    stride = pair(stride) if stride else kernel_size
    # `ceil_mode` asks for windows beyond the lower and right border: as much border as the last of them needs.
    made, sides = call.result_shape[1:], call.shape_of(input)[1:]
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
    if ceil_mode and reaches_beyond(call.shape_of(input)[1:], kernel_size, stride, padding):
        raise Unsupported("by `ceil_mode` its last windows reach beyond the border, and the engine's do not")
    return call.emit(
        nodes.AvgPool,
        input,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        count_include_pad=bool(count_include_pad),
    )


@lowers("adaptive_max_pool2d", says="adaptive max pools")
def adaptive_max_pool(call: Call, input, output_size, return_indices=False) -> Value:
    if return_indices:
        raise Unsupported("it returns indices")
    return _max_over_equal_windows(call, input, call.result_shape)


def _max_over_equal_windows(call: Call, input: Value, made: Shape) -> Value:
    sides = call.shape_of(input)[1:]
    if any(n % out for n, out in zip(sides, made[1:], strict=True)):
        raise Unsupported(f"its windows differ in size: it makes {made[1:]} of {sides}")
    window = tuple(n // out for n, out in zip(sides, made[1:], strict=True))
    return call.emit(
        nodes.MaxPool, input, kernel_size=window, stride=window, padding=(0,) * 4, dilation=(1, 1), gives=made
    )


@lowers("interpolate", says="nearest upsampling")
def interpolate(
    call: Call, input, size=None, scale_factor=None, mode="nearest", align_corners=None,
    recompute_scale_factor=None, antialias=False,
) -> Value:  # fmt: skip
    sides, made = call.shape_of(input)[1:], call.result_shape[1:]
    if mode != "nearest" or len(made) != 2 or any(out % n for out, n in zip(made, sides, strict=True)):
        raise Unsupported("the engine makes images larger by whole factors and `nearest` only")
    return call.emit(nodes.AdaptiveAvgPool, input, output_size=made)  # windows of one pixel


@lowers("adaptive_avg_pool2d", says="adaptive average pools")
def adaptive_avg_pool(call: Call, input, output_size) -> Value:
    return call.emit(nodes.AdaptiveAvgPool, input, output_size=call.result_shape[1:])
