"""One node of an artifact to the ONNX operators of its formula, as FORMAT.md has it.

A layer's value has the layer's name, and what lies inside it is called `layer/codes`, `layer/accumulator` and so on, so
that two runtimes can be compared value by value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from asqcli.arithmetic.constants import (
    GELU_TANH_CUBIC,
    GELU_TANH_LINEAR,
    SIXTH,
    TAIL_COEFFICIENTS,
    TAIL_LARGEST,
    TAIL_WIDTH,
)
from asqcli.artifact import Artifact, nodes
from asqcli.export.onnx.graph import Graph
from asqcli.export.onnx.layers import quantized_layer
from asqcli.export.onnx.pools import adaptive_avg_pool, avg_pool, max_pool
from asqcli.export.onnx.scope import DOUBLE, FLOAT, Scope


def write_node(graph: Graph, artifact: Artifact, index: int, inputs: list[str], output: str | None) -> str:
    """Add the operators of node `index`; return the name of its value.

    Args:
        inputs: names of the values that the node reads.
        output: the name of its value; None: the node's own.
    """
    node = artifact.document.nodes[index]
    scope = Scope(graph, artifact, node, inputs)
    name = output or graph.unique(scope.name)
    WRITERS[type(node)](scope, node)
    return graph.call_last_value(name)


def _batch_norm(scope: Scope, node: nodes.BatchNorm) -> str:
    product = scope.add("Mul", *scope.inputs, _of_channels(scope, node.g), name="multiplied")
    return scope.add("Add", product, _of_channels(scope, node.b), name="normalized")


def _div(scope: Scope, node: nodes.Div) -> str:
    return scope.add("Div", *scope.inputs, _of_channels(scope, node.divisor), name="quotient")


def _of_channels(scope: Scope, name: str) -> str:
    """Return a tensor of a number for each channel in a shape that goes with the node's input."""
    return scope.tensor(name, (-1, *[1] * (len(scope.shapes[0]) - 1)))


def _clamp(scope: Scope, node: nodes.Clamp) -> str:
    (x,), low, high = scope.inputs, node.low, node.high
    if low is None and high is None:
        return scope.add("Identity", x, name="same")
    if low == 0 and high is None:
        return scope.add("Relu", x, name="relu")
    low, high = ("" if v is None else scope.constant(n, np.float32(v)) for n, v in (("low", low), ("high", high)))
    return scope.add("Clip", x, low, *[high] * bool(high), name="clamped")


def _gate(scope: Scope, node: nodes.Gate) -> str:
    (x,) = scope.inputs
    match node.op:
        case "sigmoid" | "silu":
            value = _sigmoid(scope, scope.cast(x, DOUBLE, name="double"))
        case "gelu":
            value = _normal_distribution(scope, x)
        case "gelu_tanh":
            value = _sigmoid(scope, _gelu_cubic(scope, x))
        case _:
            value = _hard_sigmoid(scope, x)
    return value if node.op in ("sigmoid", "hardsigmoid") else scope.add("Mul", x, value, name="gated")


def _sigmoid(scope: Scope, x: str) -> str:
    """Return 1 / (1 + exp(-x)) of doubles, in float32: Exp is off by far less than float32 can tell."""
    one = scope.constant("one", np.float64(1))
    negative = scope.add("Neg", x, name="negative")
    denominator = scope.add("Add", one, scope.add("Exp", negative, name="exp"), name="denominator")
    return scope.cast(scope.add("Div", one, denominator, name="quotient"), FLOAT, name="sigmoid")


def _gelu_cubic(scope: Scope, x: str) -> str:
    x = scope.cast(x, DOUBLE, name="double")
    square = scope.add("Mul", x, x, name="square")
    product = scope.add("Mul", square, scope.constant("cubic", np.float64(GELU_TANH_CUBIC)), name="cubic_product")
    factor = scope.add("Add", product, scope.constant("linear", np.float64(GELU_TANH_LINEAR)), name="factor")
    return scope.add("Mul", x, factor, name="cubic_value")


def _normal_distribution(scope: Scope, x: str) -> str:
    """Return the normal distribution up to x, in float32, with all steps in double."""
    wide = scope.cast(x, DOUBLE, name="double")
    one, zero = scope.constant("one", np.float64(1)), scope.constant("zero", np.float64(0))
    width, half = scope.constant("width", np.float64(TAIL_WIDTH)), scope.constant("half", np.float64(-0.5))
    y = scope.add("Min", scope.add("Abs", wide, name="abs"), scope.constant("most", np.float64(TAIL_LARGEST)), name="y")
    exponent = scope.add("Mul", scope.add("Mul", y, y, name="square"), half, name="exponent")
    s = scope.add("Div", width, scope.add("Add", width, y, name="sum"), name="s")
    power = scope.constant("a", np.float64(TAIL_COEFFICIENTS[0]))
    for n, coefficient in enumerate(TAIL_COEFFICIENTS[1:]):
        product = scope.add("Mul", power, s, name=f"product{n}")
        power = scope.add("Add", product, scope.constant(f"a{n}", np.float64(coefficient)), name=f"power{n}")
    tail = scope.add("Mul", power, s, name="polynomial")
    tail = scope.add("Mul", tail, scope.add("Exp", exponent, name="exp"), name="tail")
    below = scope.add("Less", wide, zero, name="below")
    return scope.cast(
        scope.add("Where", below, tail, scope.add("Sub", one, tail, name="rest"), name="where"), FLOAT, name="cdf"
    )


def _leaky_relu(scope: Scope, node: nodes.LeakyRelu) -> str:
    return scope.add("LeakyRelu", *scope.inputs, name="leaky", alpha=float(np.float32(node.negative_slope)))


def _prelu(scope: Scope, node: nodes.PRelu) -> str:
    slope = _of_channels(scope, node.slope) if node.slope_per == "channel" else scope.tensor(node.slope, (1,))
    return scope.add("PRelu", *scope.inputs, slope, name="prelu")


def _hard_sigmoid(scope: Scope, x: str) -> str:
    moved = scope.add("Add", x, scope.constant("three", np.float32(3)), name="moved")
    bounds = scope.constant("zero", np.float32(0)), scope.constant("six", np.float32(6))
    value = scope.add("Clip", moved, *bounds, name="clipped")
    return scope.add("Mul", value, scope.constant("sixth", np.float32(SIXTH)), name="gate")


def _add(scope: Scope, node: nodes.Add) -> str:
    return scope.add("Add", *scope.inputs, name="sum")


def _mul(scope: Scope, node: nodes.Mul) -> str:
    return scope.add("Mul", *scope.inputs, name="product")


def _reshape(scope: Scope, node: nodes.Reshape) -> str:
    return scope.add("Reshape", *scope.inputs, scope.integers("shape", 0, *node.shape), name="reshaped")


def _transpose(scope: Scope, node: nodes.Transpose) -> str:
    order = list(range(len(scope.shapes[0]) + 1))
    first, second = (axis + 1 for axis in node.axes)
    order[first], order[second] = order[second], order[first]
    return scope.add("Transpose", *scope.inputs, name="transposed", perm=order)


def _concat(scope: Scope, node: nodes.Concat) -> str:
    return scope.add("Concat", *scope.inputs, name="joined", axis=node.axis + 1)


def _slice(scope: Scope, node: nodes.Slice) -> str:
    (x,) = scope.inputs
    return scope.slice(x, node.axis + 1, node.start, node.stop, node.step)


def _pad(scope: Scope, node: nodes.Pad) -> str:
    (x,) = scope.inputs
    return scope.pad_safely(x, node.before, node.after, np.float32(0))


# Each leaves the value that it returns as the last one.
WRITERS: dict[type[nodes.Node], Callable[[Scope, Any], str]] = nodes.for_every_kind(
    {
        nodes.Conv: quantized_layer,
        nodes.Linear: quantized_layer,
        nodes.BatchNorm: _batch_norm,
        nodes.Clamp: _clamp,
        nodes.Div: _div,
        nodes.Gate: _gate,
        nodes.LeakyRelu: _leaky_relu,
        nodes.PRelu: _prelu,
        nodes.Add: _add,
        nodes.Mul: _mul,
        nodes.MaxPool: max_pool,
        nodes.AvgPool: avg_pool,
        nodes.AdaptiveAvgPool: adaptive_avg_pool,
        nodes.Reshape: _reshape,
        nodes.Transpose: _transpose,
        nodes.Concat: _concat,
        nodes.Slice: _slice,
        nodes.Pad: _pad,
    }
)
