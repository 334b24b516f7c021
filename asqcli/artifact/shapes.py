"""Shapes and cost of every value of a document: what cannot run is refused before anything is computed.

A file from a stranger may ask for an image of a million pixels; the limits bound memory and time, far above any network
that people use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from asqcli.artifact import document as doc
from asqcli.errors import InputError
from asqcli.fixed_arithmetic import EXACT_FLOAT32, LANES

Shape = tuple[int, ...]

LARGEST_VALUE = 2**24  # numbers in one value of one sample: 64 MiB
LARGEST_LIVE = 2**25  # numbers in all values that must be held at one time
LARGEST_COST = 2**37  # of one sample: four seconds of one core, mostly one or two

# Costs are in multiply-adds of a matrix product in float32, about 0.03 ns of a core.
ELEMENTWISE_COST = 32  # of an operation on one number
CALL_COST = 2**18  # of an operation on arrays, however small
NARROW_PRODUCT = 64  # columns: a matrix product with fewer takes as long
DOUBLE_COST = 2  # of a multiply-add in double
LARGEST_LEVEL = 128

# Elementwise operations on each number.
SHORT_RUN = 4  # on copying it by itself
QUANTIZE_PASSES = 4
SIGMOID_PASSES = 20
POOL_PASSES = 2  # of a tap
MEAN_PASSES = 4
RESAMPLE_PASSES = 16


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


def plan_document(document: doc.Document) -> Plan:
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
        multiply_adds += _multiply_adds(node, shape)
        cost += _cost(node, inputs, shape)
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
        case doc.Conv():
            channels_out, per_group, *kernel = node.weights.shape
            if len(x) != 3 or len(kernel) != 2:
                return "a convolution needs (channels, height, width) and weights of four dimensions"
            if per_group * node.groups != x[0] or channels_out % node.groups:
                return f"weights {node.weights.shape} in {node.groups} groups"
            top, left, bottom, right = node.padding
            extents = [d * (k - 1) + 1 for d, k in zip(node.dilation, kernel, strict=True)]
            if x[1] + top + bottom < extents[0] or x[2] + left + right < extents[1]:
                return "the kernel is larger than the padded image"
        case doc.Linear():
            if len(x) != 1 or len(node.weights.shape) != 2 or node.weights.shape[1] != x[0]:
                return f"weights {node.weights.shape}"
        case doc.BatchNorm() | doc.AdaptiveAvgPool():
            if len(x) != 3:
                return "it needs (channels, height, width)"
        case doc.MaxPool() | doc.AvgPool():
            if len(x) != 3:
                return "it needs (channels, height, width)"
            if any(n < e for n, e in zip(_padded(node, x), _extents(node), strict=True)):
                return "the window is larger than the padded image"
        case doc.Add():
            if inputs[0] != inputs[1]:
                return "the shapes differ"
        case doc.Mul():
            gate = inputs[1]
            if gate != x and not (len(x) == 3 and gate == (x[0], 1, 1)):
                return "the second factor is neither of the shape of the first nor (channels, 1, 1)"
        case doc.Reshape():
            if math.prod(node.shape) != math.prod(x):
                return f"new shape {node.shape}"
        case doc.Transpose():
            if max(node.axes) >= len(x):
                return f"axes {node.axes}"
        case doc.Concat():
            others = [s[: node.axis] + s[node.axis + 1 :] for s in inputs]
            if node.axis >= len(x) or any(len(s) != len(x) for s in inputs) or any(o != others[0] for o in others):
                return f"axis {node.axis}"
        case doc.Slice():
            if node.axis >= len(x) or not node.start < node.stop <= x[node.axis]:
                return f"{node.start} to {node.stop} along axis {node.axis}"
        case doc.Pad():
            if len(node.before) != len(x) or len(node.after) != len(x):
                return f"{len(node.before)} and {len(node.after)} borders"
    return None


def _output_shape(node, inputs: list[Shape]) -> Shape:
    x = inputs[0]
    match node:
        case doc.Conv():
            return (node.weights.shape[0], *_windows(node, x))
        case doc.Linear():
            return (node.weights.shape[0],)
        case doc.BatchNorm() | doc.Clamp() | doc.Gate() | doc.Add() | doc.Mul():
            return x
        case doc.MaxPool() | doc.AvgPool():
            return (x[0], *_windows(node, x))
        case doc.AdaptiveAvgPool():
            return (x[0], *node.output_size)
        case doc.Reshape():
            return node.shape
        case doc.Transpose():
            order = list(x)
            first, second = node.axes
            order[first], order[second] = order[second], order[first]
            return tuple(order)
        case doc.Concat():
            return (*x[: node.axis], sum(s[node.axis] for s in inputs), *x[node.axis + 1 :])
        case doc.Slice():
            return (*x[: node.axis], -(-(node.stop - node.start) // node.step), *x[node.axis + 1 :])
        case doc.Pad():
            return tuple(b + n + a for b, n, a in zip(node.before, x, node.after, strict=True))
    raise AssertionError(node)


def _padded(node, x: Shape) -> tuple[int, int]:
    """Return height and width with the borders of a convolution or pool."""
    top, left, bottom, right = node.padding if len(node.padding) == 4 else (*node.padding, *node.padding)
    return x[1] + top + bottom, x[2] + left + right


def _padded_size(node, x: Shape) -> int:
    return x[0] * math.prod(_padded(node, x)) if isinstance(node, doc.Conv | doc.MaxPool | doc.AvgPool) else 0


def _extents(node) -> tuple[int, int]:
    """Return the pixels that a window spans, down and across."""
    kernel = node.weights.shape[2:] if isinstance(node, doc.Conv) else node.kernel_size
    dilation = getattr(node, "dilation", (1, 1))
    return tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))


def _windows(node, x: Shape) -> tuple[int, int]:
    """Return the number of windows, down and across."""
    return tuple((n - e) // s + 1 for n, e, s in zip(_padded(node, x), _extents(node), node.stride, strict=True))


def _multiply_adds(node, shape: Shape) -> int:
    return math.prod(shape) * math.prod(node.weights.shape[1:]) if isinstance(node, doc.Conv | doc.Linear) else 0


def _cost(node, inputs: list[Shape], shape: Shape) -> int:
    """Return what a node costs, in multiply-adds: a bound that is near the truth where it is large."""
    read, made = sum(max(math.prod(x), _padded_size(node, x)) for x in inputs), math.prod(shape)
    products, elementwise, calls = 0, read + made, 8 + len(inputs)
    match node:
        case doc.Conv() | doc.Linear():
            products, numbers, calls = _convolution_work(node, made)
            elementwise += QUANTIZE_PASSES * (read + made) + numbers
            if node.activations.adapter is not None:
                elementwise += MEAN_PASSES * read
                calls += max(inputs[0][1:], default=0)
                width = inputs[0][0]
                for layer in node.activations.adapter.layers:
                    elementwise += QUANTIZE_PASSES * (width + LANES) * layer.outputs
                    calls += 2 * width // LANES
                    width = layer.outputs
        case doc.Gate(op="sigmoid" | "silu"):
            elementwise += SIGMOID_PASSES * made
        case doc.MaxPool():
            calls += math.prod(node.kernel_size)
            elementwise += made * math.prod(node.kernel_size)
        case doc.AvgPool():
            calls += 2 * sum(node.kernel_size)
            rows = inputs[0][0] * _padded(node, inputs[0])[0] * shape[2]  # sums along the rows come first
            elementwise += POOL_PASSES * (2 * read + rows * node.kernel_size[1] + made * node.kernel_size[0])
        case doc.AdaptiveAvgPool():
            calls += 2 * sum(n + o for n, o in zip(inputs[0][1:], node.output_size, strict=True))
            elementwise += MEAN_PASSES * read + RESAMPLE_PASSES * (made + inputs[0][0] * inputs[0][1] * shape[2])
            if node.output_size == (1, 1):
                elementwise = (MEAN_PASSES + 1) * read
    return products + ELEMENTWISE_COST * elementwise + CALL_COST * calls


def _convolution_work(node: doc.Conv | doc.Linear, made: int) -> tuple[int, int, int]:
    """Return (cost of matrix products, numbers handled one by one, operations on arrays)."""
    outputs, *window = node.weights.shape
    depth, taps = math.prod(window), math.prod(window[1:])
    groups = node.groups if isinstance(node, doc.Conv) else 1
    if groups > 1 and window[0] == 1:  # no matrix product, but a product of images for each tap
        return 0, 3 * made * taps, 16 + 4 * taps
    largest_sum = max(-node.activations.qmin, node.activations.qmax) * LARGEST_LEVEL * depth
    factor = DOUBLE_COST if largest_sum >= EXACT_FLOAT32 else 1
    patches = made // outputs * depth * groups  # copied before the product, in runs of a pixel's channels
    products = patches * max(outputs // groups, NARROW_PRODUCT)
    return products * factor, patches + SHORT_RUN * patches // window[0], 16 + 4 * groups + patches // LARGEST_VALUE
