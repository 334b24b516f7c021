"""Borders around images, and crops; parameters as torch's."""

from __future__ import annotations

from asqcli.artifact import nodes
from asqcli.export.graph import Call, Unsupported, Value
from asqcli.export.operations.registry import lowers
from asqcli.export.operations.slices import sliced


@lowers("pad", says="padding")
def pad(call: Call, input, pad, mode="constant", value=None) -> Value:
    if mode == "constant" and value not in (None, 0):
        raise Unsupported("the engine pads with zeros, or with pixels of the image")
    dims = len(call.shape_of(input))
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]  # torch names the last dimension first
    if any(pair != (0, 0) for pair in pairs[dims:]):
        raise Unsupported("it pads the batch")
    pairs = [*pairs, *[(0, 0)] * dims][dims - 1 :: -1]
    borders = [(max(before, 0), max(after, 0)) for before, after in pairs]
    if mode == "constant":
        if borders != [(0, 0)] * dims or borders == pairs:
            input = with_zeros_around(call, input, borders)
    else:
        for axis, sides in enumerate(borders):
            input = _with_pixels_around(call, input, axis, sides, mode)
    for axis, (before, after) in enumerate(pairs):  # numbers below zero crop
        size = call.shape_of(input)[axis]
        input = sliced(call, input, axis, slice(max(-before, 0), size + min(after, 0), 1))
    return input


def with_zeros_around(call: Call, value: Value, borders: list[tuple[int, int]]) -> Value:
    """Return a value with so many zeros before and after it along each axis."""
    before, after = (tuple(pair[side] for pair in borders) for side in (0, 1))
    shape = tuple(b + n + a for b, n, a in zip(before, call.shape_of(value), after, strict=True))
    return call.emit(nodes.Pad, value, before=before, after=after, gives=shape)


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
    first, second = ([sliced(call, value, axis, slice(i, i + 1, 1)) for i in side] for side in places)
    shape[axis] += before + after
    return call.emit(nodes.Concat, *first, value, *second, axis=axis, gives=tuple(shape))
