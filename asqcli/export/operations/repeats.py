"""Values that are repeated: to the shape of another, or so many times; parameters as torch's."""

from __future__ import annotations

from asqcli.artifact import nodes
from asqcli.artifact.nodes.base import Shape
from asqcli.export.graph import Call, Unsupported, Value
from asqcli.export.operations.registry import lowers


@lowers("expand", "expand_as", "broadcast_to", says="expansions")
def expand(call: Call, input, *_, **__) -> Value:
    return expanded(call, input)


def expanded(call: Call, value: Value) -> Value:
    """Return a value in the shape of the operation's result: itself, or the one number of a side at each place."""
    shape, wanted = call.shape_of(value), call.result_shape
    if shape == wanted:
        return value
    if len(wanted) > 3 or len(shape) != len(wanted) or any(n not in (1, m) for n, m in zip(shape, wanted, strict=True)):
        raise Unsupported(f"it brings the shape {shape} to {wanted}")
    channels, height, width = (*wanted, 1, 1)[:3]
    value = call.reshaped(value, (*shape, 1, 1)[:3])
    if call.shape_of(value)[1:] != (height, width):  # windows of one pixel
        gives = (shape[0], height, width)
        value = call.emit(nodes.AdaptiveAvgPool, value, output_size=(height, width), gives=gives)
    if shape[0] != channels:
        value = _stretched(call, value, 0, channels)
    return call.reshaped(value, wanted)


@lowers("repeat_interleave", says="repetitions")
def repeat_interleave(call: Call, input, repeats, dim=None, *, output_size=None) -> Value:
    if type(repeats) is not int or dim is None or len(call.shape_of(input)) != 3:
        raise Unsupported("the engine repeats each place of one side of an image as many times as any other")
    return _stretched(call, input, call.axis(input, dim), repeats)


def _stretched(call: Call, image: Value, axis: int, times: int) -> Value:
    """Return an image with each place of an axis so many times: a pool of more windows than there are pixels."""
    if axis == 0:
        image = call.emit(nodes.Transpose, image, axes=(0, 2), gives=call.shape_of(image)[::-1])
        image = _stretched(call, image, 2, times)
        return call.emit(nodes.Transpose, image, axes=(0, 2), gives=call.shape_of(image)[::-1])
    channels, height, width = call.shape_of(image)
    size = (height * times, width) if axis == 1 else (height, width * times)
    return call.emit(nodes.AdaptiveAvgPool, image, output_size=size, gives=(channels, *size))


@lowers("repeat", "tile", says="repetitions")
def repeat(call: Call, input, *repeats, dims=None) -> Value:
    first = repeats[0] if repeats else dims
    times = list(first if isinstance(first, tuple | list) else repeats)
    shape: Shape = call.shape_of(input)
    times = [*[1] * (len(shape) + 1 - len(times)), *times]
    if len(times) != len(shape) + 1 or times[0] != 1 or any(type(number) is not int for number in times):
        raise Unsupported("it repeats the images of the batch, or adds a dimension")
    for axis, number in enumerate(times[1:]):
        if number != 1:
            shape = (*shape[:axis], shape[axis] * number, *shape[axis + 1 :])
            input = call.emit(nodes.Concat, *[input] * number, axis=axis, gives=shape)
    return input
