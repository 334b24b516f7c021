"""Sums, means and largest values along dimensions, and of several values; parameters as torch's.

Along one dimension of an image, line or row they are pools, which look along it. Beyond that, and where values are
stacked, they are sums and maxima of values. Evaluation computes in the same order: `asqcli.arithmetic.torch_mode`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, reduce
from math import prod

import torch

from asqcli.artifact import nodes
from asqcli.artifact.nodes.base import Shape
from asqcli.export.graph import Call, Stack, Unread, Unsupported, Value
from asqcli.export.operations.arithmetic import affine, divided
from asqcli.export.operations.elementwise import clamp
from asqcli.export.operations.pools import largest_of_windows
from asqcli.export.operations.registry import lowers
from asqcli.export.operations.repeats import expanded
from asqcli.export.operations.slices import places

Dims = int | Iterable[int] | None
LARGEST = "largest values along a dimension"
MOST_VALUES = 64  # rows of a window in the native kernels


@lowers("mean", says="means along dimensions", takes_stacks=True)
def mean(call: Call, input, dim=None, keepdim=False, *, axis=None) -> Value:
    match _seen(call, input, dim if axis is None else axis):
        case list(values):
            found = divided(call, _sum_of(call, values), float(len(values)))
        case (value, axes):
            found = _mean(call, value, axes)
    return call.reshaped(found, call.result_shape)


@lowers("sum", says="sums along dimensions", takes_stacks=True)
def sum(call: Call, input, dim=None, keepdim=False, *, axis=None) -> Value:
    match _seen(call, input, dim if axis is None else axis):
        case list(values):
            found = _sum_of(call, values)
        case (value, axes):
            found, shape = _mean(call, value, axes), call.shape_of(value)
            factor = float(prod(shape[axis] for axis in axes))
            found = affine(call, found, factor=factor, gives=call.shape_of(found))
    return call.reshaped(found, call.result_shape)


@lowers("amax", says=LARGEST, takes_stacks=True)
def amax(call: Call, input, dim=(), keepdim=False) -> Value:
    match _seen(call, input, dim):
        case list(values):
            found = largest_of(call, values)
        case (value, axes):
            found = _along(call, value, axes, partial(_largest, call))
    return call.reshaped(found, call.result_shape)


@lowers("max", says=LARGEST, takes_stacks=True)
def max(call: Call, input, dim=None, keepdim=False, *, other=None) -> Value | list[Value | Unread]:
    other = dim if isinstance(dim, Value | torch.Tensor) else other
    if other is not None:
        return maximum(call, input, other)
    return [amax(call, input, () if dim is None else dim, keepdim), Unread("it reads where the largest values lie")]


@lowers("maximum", says="maxima and minima")
def maximum(call: Call, input, other) -> Value:
    if isinstance(input, Value) and isinstance(other, Value):
        return largest_of(call, [expanded(call, input), expanded(call, other)])
    return clamp(call, *_with_number(input, other))


@lowers("minimum", says="maxima and minima")
def minimum(call: Call, input, other) -> Value:
    if not isinstance(input, Value) or not isinstance(other, Value):
        value, number = _with_number(input, other)
        return clamp(call, value, max=number)
    values = (expanded(call, value) for value in (input, other))
    largest = largest_of(call, [affine(call, value, factor=-1.0) for value in values])
    return affine(call, largest, factor=-1.0)


@lowers("abs", "absolute", says="magnitudes")
def abs(call: Call, input) -> Value:
    return largest_of(call, [input, affine(call, input, factor=-1.0)])


def _with_number(input: object, other: object) -> tuple[Value, float]:
    value, constant = (input, other) if isinstance(input, Value) else (other, input)
    if not isinstance(value, Value) or not isinstance(constant, torch.Tensor) or constant.numel() != 1:
        raise Unsupported("it compares a value with something that is neither another nor a single number")
    return value, constant.item()


def largest_of(call: Call, values: list[Value]) -> Value:
    """Return the largest of several values, number by number: a pool that looks at each below the one before."""
    shape = call.shape_of(values[0])
    if len(values) == 1:
        return values[0]
    if len(shape) > 3 or len(values) > MOST_VALUES:
        raise Unsupported(f"it takes the largest of {len(values)} values of the shape {shape}")
    channels, height, width = image = _as_image(shape)
    below = [call.reshaped(value, image) for value in values]
    joined = call.emit(nodes.Concat, *below, axis=1, gives=(channels, len(values) * height, width))
    largest = call.emit(
        nodes.MaxPool, joined, kernel_size=(len(values), 1), stride=(1, 1), padding=(0,) * 4, dilation=(height, 1),
        gives=image,
    )  # fmt: skip
    return call.reshaped(largest, shape)


def _sum_of(call: Call, values: list[Value]) -> Value:
    return reduce(lambda total, value: call.emit(nodes.Add, total, value, gives=call.shape_of(total)), values)


def _seen(call: Call, input: Value | Stack, dim: Dims) -> tuple[Value, set[int]] | list[Value]:
    """Return a value and the axes along which a pool looks at it; or the values of which it is taken one by one."""
    dims = [dim] if isinstance(dim, int) else list(dim or ())
    if isinstance(input, Stack):
        if {d % input.rank for d in dims} == {input.dim} and (input.dim == 0 or input.rank > 4):
            return list(input.values)
        input = call.joined(input)
    shape, axes = call.shape_of(input), {call.axis(input, d) for d in dims}
    if len(axes) == 1 and len(shape) > 3:
        [axis] = axes
        if shape[axis] > MOST_VALUES:
            raise Unsupported(f"it looks along {shape[axis]} places of the shape {shape}")
        return places(call, input, axis)
    if len(shape) > 3 or (len(axes) != 1 and (len(shape), axes) != (3, {1, 2})):
        raise Unsupported("the engine looks along one dimension, or over height and width together")
    return input, axes


def _mean(call: Call, value: Value, axes: set[int]) -> Value:
    return _along(call, value, axes, partial(_average, call))


def _average(call: Call, image: Value, size: tuple[int, int]) -> Value:
    return call.emit(nodes.AdaptiveAvgPool, image, output_size=size, gives=(call.shape_of(image)[0], *size))


def _largest(call: Call, image: Value, size: tuple[int, int]) -> Value:
    _, height, width = call.shape_of(image)
    return largest_of_windows(call, image, (height // size[0], width // size[1]))


def _along(call: Call, value: Value, axes: set[int], pool: Callable[[Value, tuple[int, int]], Value]) -> Value:
    """Return what a pool makes of an image, or of a line or row as one, whose `axes` become one number each."""
    image = _as_image(call.shape_of(value))
    value = call.reshaped(value, image)
    if axes != {0}:
        height, width = (1 if axis in axes else image[axis] for axis in (1, 2))
        return pool(value, (height, width))
    across = call.emit(nodes.Transpose, value, axes=(0, 2), gives=image[::-1])
    pooled = pool(across, (image[1], 1))
    return call.emit(nodes.Transpose, pooled, axes=(0, 2), gives=(1, *image[1:]))


def _as_image(shape: Shape) -> Shape:
    return (*shape, 1, 1)[:3]
