"""Nodes that put numbers elsewhere and compute nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from asqcli.artifact.nodes.base import Border, Node, Shape, Size, Value, WithoutTensors, Work

Axis = Annotated[int, Field(ge=0, le=7)]
Index = Annotated[int, Field(ge=0, le=2**24)]
BorderOfEachAxis = Annotated[tuple[Border, ...], Field(min_length=1, max_length=8)]


class Movement(WithoutTensors):
    """What holds for kinds of node that copy."""

    def work(self, inputs: Sequence[Shape], output: Shape) -> Work:
        return self.traffic(inputs, output)


class Reshape(Movement, Node):
    op: Literal["reshape"] = "reshape"
    shape: Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)]

    def problem(self, inputs: Sequence[Shape]) -> str | None:
        return None if math.prod(self.shape) == math.prod(inputs[0]) else f"new shape {self.shape}"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return self.shape


class Transpose(Movement, Node):
    op: Literal["transpose"] = "transpose"
    axes: tuple[Axis, Axis]

    def problem(self, inputs: Sequence[Shape]) -> str | None:
        return None if max(self.axes) < len(inputs[0]) else f"axes {self.axes}"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        order, (first, second) = list(inputs[0]), self.axes
        order[first], order[second] = order[second], order[first]
        return tuple(order)


class Concat(Movement, Node):
    op: Literal["concat"] = "concat"
    inputs: Annotated[tuple[Value, ...], Field(min_length=1, max_length=256)]
    axis: Axis

    def problem(self, inputs: Sequence[Shape]) -> str | None:
        ranks = {len(x) for x in inputs}
        others = {x[: self.axis] + x[self.axis + 1 :] for x in inputs}
        return None if self.axis < len(inputs[0]) and len(ranks) == len(others) == 1 else f"axis {self.axis}"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        x = inputs[0]
        return (*x[: self.axis], sum(part[self.axis] for part in inputs), *x[self.axis + 1 :])


class Slice(Movement, Node):
    op: Literal["slice"] = "slice"
    axis: Axis
    start: Index
    stop: Index
    step: Size

    def problem(self, inputs: Sequence[Shape]) -> str | None:
        x = inputs[0]
        if self.axis < len(x) and self.start < self.stop <= x[self.axis]:
            return None
        return f"{self.start} to {self.stop} along axis {self.axis}"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        x = inputs[0]
        return (*x[: self.axis], -(-(self.stop - self.start) // self.step), *x[self.axis + 1 :])


class Pad(Movement, Node):
    op: Literal["pad"] = "pad"
    before: BorderOfEachAxis
    after: BorderOfEachAxis

    def problem(self, inputs: Sequence[Shape]) -> str | None:
        if len(self.before) == len(self.after) == len(inputs[0]):
            return None
        return f"{len(self.before)} and {len(self.after)} borders"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return tuple(b + n + a for b, n, a in zip(self.before, inputs[0], self.after, strict=True))
