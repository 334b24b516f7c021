"""Operations that put numbers elsewhere, or leave them as they are; parameters as torch's."""

from __future__ import annotations

from asqcli.artifact import nodes
from asqcli.export.graph import Call, Stack, Unsupported, Value
from asqcli.export.operations.registry import lowers


@lowers("flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten", "reshape_as", "view_as", says="reshapes")
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
    value, order = input, list(range(count))
    for place, dim in enumerate(wanted):
        at = order.index(dim)
        if at != place:
            order[place], order[at] = order[at], order[place]
            shape = list(call.shape_of(value))
            shape[place - 1], shape[at - 1] = shape[at - 1], shape[place - 1]
            value = call.emit(nodes.Transpose, value, axes=(place - 1, at - 1), gives=tuple(shape))
    return value


@lowers("cat", "concat", "concatenate", says="concatenation")
def concat(call: Call, tensors, dim=0) -> Value:
    axis = call.axis(tensors[0], dim)
    return call.emit(nodes.Concat, *tensors, axis=axis)


@lowers("chunk", says="chunks")
def chunk(call: Call, input, chunks, dim=0) -> list[Value]:
    return _pieces(call, input, dim)


@lowers("split", says="splits")
def split(call: Call, tensor, split_size_or_sections=None, dim=0, *, split_size=None) -> list[Value]:
    return _pieces(call, tensor, dim)


def _pieces(call: Call, input: Value, dim: int) -> list[Value]:
    """Slice along one dimension into the sizes that the run shows."""
    axis, values, start = call.axis(input, dim), [], 0
    for piece in call.operation.result:
        shape = tuple(piece.shape[1:])
        values.append(_slice(call, input, axis, slice(start, start + shape[axis], 1)))
        start += shape[axis]
    return values


@lowers("stack", says="stacks")
def stack(call: Call, tensors, dim=0, *, out=None) -> Stack:
    shapes = {call.shape_of(tensor) for tensor in tensors}
    rank = len(shapes.pop()) + 2
    return Stack(tuple(tensors), dim % rank, rank)


@lowers("unbind", says="unbinding", takes_stacks=True)
def unbind(call: Call, input, dim=0) -> list[Value]:
    if isinstance(input, Stack):
        if dim % input.rank == input.dim:
            return list(input.values)
        input = call.joined(input)
    return places(call, input, call.axis(input, dim))


def places(call: Call, value: Value, axis: int) -> list[Value]:
    """Return what lies at each place of an axis, which is gone."""
    shape = call.shape_of(value)
    if len(shape) == 1:
        raise Unsupported("it takes single numbers")
    if axis == 0 and len(shape) > 3:  # groups of channels: the channels of an image as often as not
        each, rest = shape[1], shape[2:]
        value = call.reshaped(value, (shape[0] * each, *rest))
        return [_slice(call, value, 0, slice(first, first + each, 1)) for first in range(0, shape[0] * each, each)]
    slices = (_slice(call, value, axis, slice(place, place + 1, 1)) for place in range(shape[axis]))
    return [call.reshaped(part, (*shape[:axis], *shape[axis + 1 :])) for part in slices]


@lowers("__getitem__", says="slices")
def getitem(call: Call, input, index) -> Value:
    index = index if isinstance(index, tuple) else (index,)
    dims = len(call.shape_of(input)) + 1
    taken = len([part for part in index if part is not None])
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (dims - taken + 1), *index[at + 1 :])
    if index[0] is not None:  # what it adds is in the result's shape
        index = tuple(part for part in index if part is not None)
    if not all(type(i) in (slice, int) for i in index) or index[0] != slice(None):
        raise Unsupported("the engine slices along channels, height and width, or takes one place of them")
    value = input
    for axis, part in enumerate(index[1:]):
        size = call.shape_of(value)[axis]
        part = slice(part % size, part % size + 1, 1) if type(part) is int else slice(*part.indices(size))
        if part != slice(0, size, 1):
            value = _slice(call, value, axis, part)
    if call.shape_of(value) != call.result_shape:  # one place of a side: the side is gone; None: there is one more
        value = call.emit(nodes.Reshape, value, shape=call.result_shape)
    return value


def _slice(call: Call, input: Value, axis: int, part: slice) -> Value:
    shape = list(call.shape_of(input))
    shape[axis] = len(range(part.start, part.stop, part.step))
    return call.emit(
        nodes.Slice, input, axis=axis, start=part.start, stop=part.stop, step=part.step, gives=tuple(shape)
    )


@lowers("pad", says="padding")
def pad(call: Call, input, pad, mode="constant", value=None) -> Value:
    if mode == "constant" and value not in (None, 0):
        raise Unsupported("the engine pads with zeros, or with pixels of the image")
    dims = len(call.shape_of(input))
    if len(pad) > 2 * dims or min(pad) < 0:
        raise Unsupported(f"it pads by {tuple(pad)}")
    pairs = [tuple(pad[i : i + 2]) for i in range(0, len(pad), 2)]  # torch names the last dimension first
    pairs = [*pairs, *[(0, 0)] * (dims - len(pairs))][::-1]
    if mode != "constant":
        for axis, borders in enumerate(pairs):
            input = _with_pixels_around(call, input, axis, borders, mode)
        return input
    return call.emit(nodes.Pad, input, before=tuple(b for b, _ in pairs), after=tuple(a for _, a in pairs))


def _with_pixels_around(call: Call, value: Value, axis: int, borders: tuple[int, int], mode: str) -> Value:
    """Put copies of a value's own pixels before and after it along an axis."""
    if borders == (0, 0):
        return value
    shape, (before, after) = list(call.shape_of(value)), borders
    last = shape[axis] - 1
    match mode:
        case "reflect":
            places = [*range(before, 0, -1)], [last - 1 - i for i in range(after)]
        case "replicate":
            places = [0] * before, [last] * after
        case "circular":
            places = [last + 1 - before + i for i in range(before)], [*range(after)]
        case _:
            raise Unsupported(f"it pads with `{mode}`")
    first, second = ([_slice(call, value, axis, slice(i, i + 1, 1)) for i in side] for side in places)
    shape[axis] += before + after
    return call.emit(nodes.Concat, *first, value, *second, axis=axis, gives=tuple(shape))


@lowers("dropout", "dropout2d", "alpha_dropout", says="dropout")
def dropout(call: Call, input, p=0.5, training=True, inplace=False, *, train=None) -> Value:
    if p != 0 and (training if train is None else train):
        raise Unsupported("it drops values in evaluation too; `training=self.training` would not")
    return input


@lowers("contiguous", "float", "clone", "detach", "to", "type", "type_as", says="copies")
def nothing(call: Call, input, *_, **__) -> Value:
    """What changes no number."""
    if call.result_shape != call.shape_of(input):
        raise Unsupported("it gives a tensor of another shape")
    return input
