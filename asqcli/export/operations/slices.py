"""Parts of values: slices, pieces and single places; parameters as torch's."""

from __future__ import annotations

from torch import Tensor

from asqcli.artifact import nodes
from asqcli.export.graph import Call, Stack, Unsupported, Value
from asqcli.export.operations.registry import lowers

SLICES = "the engine slices along channels, height and width, or takes places of them that are no values themselves"


@lowers("chunk", says="chunks")
def chunk(call: Call, input, chunks, dim=0) -> list[Value]:
    return _pieces(call, input, dim)


@lowers("split", says="splits")
def split(call: Call, tensor, split_size_or_sections=None, dim=0, *, split_size=None) -> list[Value]:
    return _pieces(call, tensor, dim)


@lowers("split_with_sizes", "tensor_split", says="splits")
def split_at(
    call: Call, input, split_sizes=None, dim=0, *, indices_or_sections=None, indices=None, sections=None
) -> list[Value]:
    return _pieces(call, input, dim)


def _pieces(call: Call, input: Value, dim: int) -> list[Value]:
    """Slice along one dimension into the sizes that the run shows."""
    axis, values, start = call.axis(input, dim), [], 0
    for piece in call.operation.result:
        shape = tuple(piece.shape[1:])
        values.append(sliced(call, input, axis, slice(start, start + shape[axis], 1)))
        start += shape[axis]
    return values


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
        return [sliced(call, value, 0, slice(first, first + each, 1)) for first in range(0, shape[0] * each, each)]
    slices = (sliced(call, value, axis, slice(place, place + 1, 1)) for place in range(shape[axis]))
    return [call.reshaped(part, (*shape[:axis], *shape[axis + 1 :])) for part in slices]


@lowers("__getitem__", says="slices")
def getitem(call: Call, input, index) -> Value:
    index = index if isinstance(index, tuple) else (index,)
    dims = len(call.shape_of(input)) + 1
    if any(part is Ellipsis for part in index):
        at = next(k for k, part in enumerate(index) if part is Ellipsis)
        taken = len([part for part in index if part is not None])
        index = (*index[:at], *[slice(None)] * (dims - taken + 1), *index[at + 1 :])
    if index[0] is not None:  # the axis that it adds is in the result's shape
        index = tuple(part for part in index if part is not None)
    picked = [part for part in index if isinstance(part, list | Tensor)]
    if type(index[0]) is not slice or index[0] != slice(None) or len(picked) > 1:
        raise Unsupported(SLICES)
    value = input
    for axis, part in enumerate(index[1:]):
        size = call.shape_of(value)[axis]
        if type(part) is slice:
            value = sliced(call, value, axis, slice(*part.indices(size)))
        elif type(part) is int:
            value = sliced(call, value, axis, slice(part % size, part % size + 1, 1))
        else:
            value = _picked(call, value, axis, part)
        if picked and type(part) is int:  # torch may put what is picked first
            raise Unsupported(SLICES)
    return call.reshaped(value, call.result_shape)  # one place of a side: the side is gone; None: there is one more


@lowers("index_select", says="slices")
def index_select(call: Call, input, dim, index) -> Value:
    return _picked(call, input, call.axis(input, dim), index)


@lowers("narrow", says="slices")
def narrow(call: Call, input, dim, start, length) -> Value:
    if type(start) is not int:
        raise Unsupported(SLICES)
    axis = call.axis(input, dim)
    start %= call.shape_of(input)[axis]
    return sliced(call, input, axis, slice(start, start + length, 1))


@lowers("select", says="slices")
def select(call: Call, input, dim, index) -> Value:
    if type(index) is not int:
        raise Unsupported(SLICES)
    axis = call.axis(input, dim)
    place = index % call.shape_of(input)[axis]
    return call.reshaped(sliced(call, input, axis, slice(place, place + 1, 1)), call.result_shape)


def _picked(call: Call, value: Value, axis: int, index: object) -> Value:
    """Return the places of an axis that a constant names, joined."""
    places = index.tolist() if isinstance(index, Tensor) else index
    if not isinstance(places, list) or not places or any(type(place) is not int for place in places):
        raise Unsupported(SLICES)
    size, runs = call.shape_of(value)[axis], []
    for place in (place % size for place in places):
        if runs and runs[-1].stop == place:
            runs[-1] = slice(runs[-1].start, place + 1, 1)
        else:
            runs.append(slice(place, place + 1, 1))
    parts = [sliced(call, value, axis, run) for run in runs]
    shape = (*call.shape_of(value)[:axis], len(places), *call.shape_of(value)[axis + 1 :])
    return parts[0] if len(parts) == 1 else call.emit(nodes.Concat, *parts, axis=axis, gives=shape)


def sliced(call: Call, input: Value, axis: int, part: slice) -> Value:
    """Return a slice along an axis, with start, stop and step; the value itself where that is all of it."""
    shape = list(call.shape_of(input))
    if part == slice(0, shape[axis], 1):
        return input
    shape[axis] = len(range(part.start, part.stop, part.step))
    return call.emit(
        nodes.Slice, input, axis=axis, start=part.start, stop=part.stop, step=part.step, gives=tuple(shape)
    )
