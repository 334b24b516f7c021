"""Shapes and cost of every value of a document: what cannot run is refused before anything is computed.

A file from a stranger may ask for an image of a million pixels; the limits bound memory and time, far above any network
that people use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from asqcli.artifact.document import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Clamp,
    Concat,
    Conv,
    Document,
    Gate,
    Linear,
    MaxPool,
    Mul,
    Pad,
    Reshape,
    Slice,
    Transpose,
)
from asqcli.errors import InputError

Shape = tuple[int, ...]

LARGEST_VALUE = 2**24  # numbers in one value of one sample: 64 MiB
LARGEST_LIVE = 2**25  # numbers in all values that must be held at one time
LARGEST_COST = 2**36  # multiply-adds of matrix products in one sample
ELEMENTWISE_COST = 64  # of an operation on one number, in multiply-adds of a matrix product


@dataclass(frozen=True)
class Plan:
    """What running a document takes.

    Attributes:
        shapes: of each value, one sample.
        last_use: of each value, the last node that reads it; the last value is never let go.
        live: numbers held at the worst moment, one sample.
        multiply_adds: of convolutions and linear layers, one sample.
    """

    shapes: tuple[Shape, ...]
    last_use: tuple[int, ...]
    live: int
    multiply_adds: int


def plan_document(document: Document) -> Plan:
    """Return the plan of a document.

    Raises:
        InputError: shapes that do not fit each other, or more than the limits allow.
    """
    size = document.input.image_size
    shapes: list[Shape] = [(3, size, size)]
    last_use = [len(document.nodes)] * (len(document.nodes) + 1)
    cost = multiply_adds = 0
    for index, node in enumerate(document.nodes):
        where = f"node {index} (`{node.op}`, `{node.name}`)"
        if any(value > index for value in node.inputs):
            raise InputError(f"{where} reads a value that does not exist yet")
        inputs = [shapes[value] for value in node.inputs]
        problem = _problem(node, inputs)
        if problem is None:
            shape = _output_shape(node, inputs)
            problem = "its output would be empty" if min(shape) < 1 else None
        if problem is None and max(math.prod(shape), *map(_padded_size, [node] * len(inputs), inputs)) > LARGEST_VALUE:
            problem = f"it would take more than {LARGEST_VALUE:,} numbers"
        if problem is not None:
            raise InputError(f"{where} does not fit its input of shape {', '.join(map(str, inputs))}: {problem}")
        shapes.append(shape)
        for value in node.inputs:
            last_use[value] = index
        products, elementwise = _work(node, shape)
        multiply_adds += products
        # A convolution with one input channel per group is no matrix product.
        depthwise = isinstance(node, Conv) and node.weights.shape[1] == 1
        cost += products * (ELEMENTWISE_COST if depthwise else 1) + elementwise * ELEMENTWISE_COST
        if cost > LARGEST_COST:
            raise InputError(f"{where} brings the network above {LARGEST_COST:,} multiply-adds for one image")
    last_use[-1] = len(document.nodes)
    if shapes[-1] != (len(document.classes),):
        raise InputError(f"the logits have the shape {shapes[-1]}, but there are {len(document.classes)} classes")
    live = _live(shapes, last_use)
    if live > LARGEST_LIVE:
        raise InputError(f"the network must hold {live:,} numbers at once, more than {LARGEST_LIVE:,}")
    return Plan(tuple(shapes), tuple(last_use), live, multiply_adds)


def _live(shapes: list[Shape], last_use: list[int]) -> int:
    """Return the largest sum of numbers in the values alive while a node runs."""
    ends: dict[int, int] = {}
    alive = worst = 0
    for value, shape in enumerate(shapes):  # value v is made by node v - 1
        alive += math.prod(shape)
        worst = max(worst, alive)
        last = max(last_use[value], value - 1)
        ends[last] = ends.get(last, 0) + math.prod(shape)
        alive -= ends.pop(value - 1, 0)
    return worst


def _problem(node, inputs: list[Shape]) -> str | None:
    """Return why the node cannot read these shapes, or None."""
    x = inputs[0]
    match node:
        case Conv():
            channels_out, per_group, *kernel = node.weights.shape
            if len(x) != 3 or len(kernel) != 2:
                return "a convolution needs (channels, height, width) and weights of four dimensions"
            if per_group * node.groups != x[0] or channels_out % node.groups:
                return f"weights {node.weights.shape} in {node.groups} groups"
            top, left, bottom, right = node.padding
            extents = [d * (k - 1) + 1 for d, k in zip(node.dilation, kernel, strict=True)]
            if x[1] + top + bottom < extents[0] or x[2] + left + right < extents[1]:
                return "the kernel is larger than the padded image"
        case Linear():
            if len(x) != 1 or len(node.weights.shape) != 2 or node.weights.shape[1] != x[0]:
                return f"weights {node.weights.shape}"
        case BatchNorm() | AdaptiveAvgPool():
            if len(x) != 3:
                return "it needs (channels, height, width)"
        case MaxPool() | AvgPool():
            if len(x) != 3:
                return "it needs (channels, height, width)"
            if any(n < e for n, e in zip(_padded(node, x), _extents(node), strict=True)):
                return "the window is larger than the padded image"
        case Add():
            if inputs[0] != inputs[1]:
                return "the shapes differ"
        case Mul():
            gate = inputs[1]
            if gate != x and not (len(x) == 3 and gate == (x[0], 1, 1)):
                return "the second factor is neither of the shape of the first nor (channels, 1, 1)"
        case Reshape():
            if math.prod(node.shape) != math.prod(x):
                return f"new shape {node.shape}"
        case Transpose():
            if max(node.axes) >= len(x):
                return f"axes {node.axes}"
        case Concat():
            others = [s[: node.axis] + s[node.axis + 1 :] for s in inputs]
            if node.axis >= len(x) or any(len(s) != len(x) for s in inputs) or any(o != others[0] for o in others):
                return f"axis {node.axis}"
        case Slice():
            if node.axis >= len(x) or not node.start < node.stop <= x[node.axis]:
                return f"{node.start} to {node.stop} along axis {node.axis}"
        case Pad():
            if len(node.before) != len(x) or len(node.after) != len(x):
                return f"{len(node.before)} and {len(node.after)} borders"
    return None


def _output_shape(node, inputs: list[Shape]) -> Shape:
    x = inputs[0]
    match node:
        case Conv():
            return (node.weights.shape[0], *_windows(node, x))
        case Linear():
            return (node.weights.shape[0],)
        case BatchNorm() | Clamp() | Gate() | Add() | Mul():
            return x
        case MaxPool() | AvgPool():
            return (x[0], *_windows(node, x))
        case AdaptiveAvgPool():
            return (x[0], *node.output_size)
        case Reshape():
            return node.shape
        case Transpose():
            order = list(x)
            first, second = node.axes
            order[first], order[second] = order[second], order[first]
            return tuple(order)
        case Concat():
            return (*x[: node.axis], sum(s[node.axis] for s in inputs), *x[node.axis + 1 :])
        case Slice():
            return (*x[: node.axis], -(-(node.stop - node.start) // node.step), *x[node.axis + 1 :])
        case Pad():
            return tuple(b + n + a for b, n, a in zip(node.before, x, node.after, strict=True))
    raise AssertionError(node)


def _padded(node, x: Shape) -> tuple[int, int]:
    """Return height and width with the borders of a convolution or pool."""
    top, left, bottom, right = node.padding if len(node.padding) == 4 else (*node.padding, *node.padding)
    return x[1] + top + bottom, x[2] + left + right


def _padded_size(node, x: Shape) -> int:
    return x[0] * math.prod(_padded(node, x)) if isinstance(node, Conv | MaxPool | AvgPool) else 0


def _extents(node) -> tuple[int, int]:
    """Return the pixels that a window spans, down and across."""
    kernel = node.weights.shape[2:] if isinstance(node, Conv) else node.kernel_size
    dilation = getattr(node, "dilation", (1, 1))
    return tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))


def _windows(node, x: Shape) -> tuple[int, int]:
    """Return the number of windows, down and across."""
    return tuple((n - e) // s + 1 for n, e, s in zip(_padded(node, x), _extents(node), node.stride, strict=True))


def _work(node, shape: Shape) -> tuple[int, int]:
    """Return (multiply-adds of products, operations on single numbers)."""
    numbers = math.prod(shape)
    if isinstance(node, Conv | Linear):
        return numbers * math.prod(node.weights.shape[1:]), numbers
    return 0, numbers * (math.prod(node.kernel_size) if isinstance(node, MaxPool | AvgPool) else 1)
