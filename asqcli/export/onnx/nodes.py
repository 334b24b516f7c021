"""One node of an artifact to the ONNX operators of its formula, as FORMAT.md has it.

A layer's value has the layer's name, and what lies inside it is called `layer/codes`, `layer/accumulator` and so on, so
that two runtimes can be compared value by value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from asqcli.arithmetic.constants import SIXTH
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
    product = scope.add("Mul", *scope.inputs, scope.tensor(node.g, (-1, 1, 1)), name="multiplied")
    return scope.add("Add", product, scope.tensor(node.b, (-1, 1, 1)), name="normalized")


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
    value = _sigmoid(scope, x) if node.op in ("sigmoid", "silu") else _hard_sigmoid(scope, x)
    return scope.add("Mul", x, value, name="gated") if node.op in ("silu", "hardswish") else value


def _sigmoid(scope: Scope, x: str) -> str:
    """Return 1 / (1 + exp(-x)): in double, where Exp is off by far less than float32 can tell."""
    one = scope.constant("one", np.float64(1))
    negative = scope.add("Neg", scope.cast(x, DOUBLE, name="double"), name="negative")
    denominator = scope.add("Add", one, scope.add("Exp", negative, name="exp"), name="denominator")
    return scope.cast(scope.add("Div", one, denominator, name="quotient"), FLOAT, name="sigmoid")


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
        nodes.Gate: _gate,
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
