"""Operations that put numbers elsewhere, or leave them as they are; parameters as torch's."""

from __future__ import annotations

from asqcli.artifact import nodes
from asqcli.export.graph import Call, Stack, Unsupported, Value
from asqcli.export.operations.pads import with_zeros_around
from asqcli.export.operations.registry import lowers
from asqcli.export.operations.slices import sliced


@lowers("squeeze", says="reshapes")
def squeeze(call: Call, input, dim=None) -> Value:
    try:
        shape = call.result_shape
    except Unsupported as reason:
        hint = "name the dimensions, as `squeeze(-1)` does, or use `flatten(1)`" if dim is None else None
        raise Unsupported(str(reason), hint) from reason
    return call.emit(nodes.Reshape, input, shape=shape)


@lowers("flatten", "reshape", "view", "unsqueeze", "unflatten", "reshape_as", "view_as", says="reshapes")
def reshape(call: Call, input, *_, **__) -> Value:
    return call.emit(nodes.Reshape, input, shape=call.result_shape)


@lowers("transpose", "swapaxes", "swapdims", says="transposes")
def transpose(call: Call, input, dim0, dim1) -> Value:
    dims = len(call.shape_of(input)) + 1
    axes = tuple(d % dims - 1 for d in (dim0, dim1))
    if min(axes) < 0:
        raise Unsupported("it moves the batch")
    return call.emit(nodes.Transpose, input, axes=axes)


@lowers("permute", says="permutations")
def permute(call: Call, input, *dims) -> Value:
    wanted = list(dims[0] if isinstance(dims[0], tuple | list) else dims)
    count = len(call.shape_of(input)) + 1
    wanted = [d % count for d in wanted]
    if wanted[0] != 0:
        raise Unsupported("it moves the batch")
    return _permuted(call, input, [d - 1 for d in wanted[1:]])


def _permuted(call: Call, value: Value, wanted: list[int]) -> Value:
    """Return a value with its axes in another order."""
    order = list(range(len(wanted)))
    for place, axis in enumerate(wanted):
        at = order.index(axis)
        if at != place:
            order[place], order[at] = order[at], order[place]
            shape = list(call.shape_of(value))
            shape[place], shape[at] = shape[at], shape[place]
            value = call.emit(nodes.Transpose, value, axes=(place, at), gives=tuple(shape))
    return value


@lowers("channel_shuffle", says="shuffles of channels and pixels")
def channel_shuffle(call: Call, input, groups) -> Value:
    channels, *image = call.image_of(input)
    value = call.reshaped(input, (groups, channels // groups, *image))
    return call.reshaped(_permuted(call, value, [1, 0, 2, 3]), call.result_shape)


@lowers("pixel_shuffle", says="shuffles of channels and pixels")
def pixel_shuffle(call: Call, input, upscale_factor) -> Value:
    _, height, width = call.image_of(input)
    value = call.reshaped(input, (call.result_shape[0], upscale_factor, upscale_factor, height, width))
    return call.reshaped(_permuted(call, value, [0, 3, 1, 4, 2]), call.result_shape)


@lowers("pixel_unshuffle", says="shuffles of channels and pixels")
def pixel_unshuffle(call: Call, input, downscale_factor) -> Value:
    channels, *image = call.image_of(input)
    apart = range(downscale_factor)
    rows = [sliced(call, input, 1, slice(i, image[0], downscale_factor)) for i in apart]
    parts = [sliced(call, row, 2, slice(j, image[1], downscale_factor)) for row in rows for j in apart]
    joined = call.emit(nodes.Concat, *parts, axis=0)
    value = call.reshaped(joined, (len(parts), channels, *call.result_shape[1:]))
    return call.reshaped(_permuted(call, value, [1, 0, 2, 3]), call.result_shape)


@lowers("cat", "concat", "concatenate", says="concatenation")
def concat(call: Call, tensors, dim=0) -> Value:
    values = [tensor for tensor in tensors if isinstance(tensor, Value)]
    axis = call.axis(values[0], dim)
    if len(values) == len(tensors):
        return call.emit(nodes.Concat, *tensors, axis=axis)
    at = [place for place, tensor in enumerate(tensors) if isinstance(tensor, Value)]
    first, last = at[0], at[-1] + 1
    if len(values) != last - first or any(t.any() for t in (*tensors[:first], *tensors[last:])):
        raise Unsupported("the engine joins values and, before or after them, zeros")
    sizes = [call.shape_of(value)[axis] for value in values]
    before, after = ([t.shape[axis + 1] for t in side] for side in (tensors[:first], tensors[last:]))
    shape = call.result_shape
    joined = values[0]
    if len(values) > 1:
        joined = call.emit(nodes.Concat, *values, axis=axis, gives=(*shape[:axis], sum(sizes), *shape[axis + 1 :]))
    borders = [(0, 0)] * len(shape)
    borders[axis] = sum(before), sum(after)
    return with_zeros_around(call, joined, borders)


@lowers("stack", says="stacks")
def stack(call: Call, tensors, dim=0, *, out=None) -> Stack:
    shapes = {call.shape_of(tensor) for tensor in tensors}
    rank = len(shapes.pop()) + 2
    return Stack(tuple(tensors), dim % rank, rank)


@lowers("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", says="dropout")
def dropout(call: Call, input, p=0.5, training=True, inplace=False, *, train=None) -> Value:
    if p != 0 and (training if train is None else train):
        raise Unsupported("it drops values in evaluation too; `training=self.training` would not")
    return input


@lowers("contiguous", "positive", "float", "clone", "detach", "to", "type", "type_as", says="copies")
def nothing(call: Call, input, *_, **__) -> Value:
    """What changes no number."""
    if call.result_shape != call.shape_of(input):
        raise Unsupported("it gives a tensor of another shape")
    return input
