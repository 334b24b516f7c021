"""Shapes and cost of every value of a document: what cannot run is refused before anything is computed.

A file from a stranger may ask for an image of a million pixels; the limits bound memory and time, far above any network
that people use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from asqcli.artifact.document import Document
from asqcli.artifact.nodes.base import Node, Shape, Work
from asqcli.errors import InputError

LARGEST_VALUE = 2**24  # numbers in one value of one sample: 64 MiB
LARGEST_LIVE = 2**25  # numbers in all values that must be held at one time
LARGEST_COST = 2**37  # cost of one sample: four seconds of one core, mostly one or two

# Costs are in multiply-adds of a matrix product in float32, about 0.03 ns of a core.
ELEMENTWISE_COST = 32  # cost of an operation on one number
CALL_COST = 2**18  # cost of an operation on arrays, however small


@dataclass(frozen=True)
class GraphShapes:
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


def infer_shapes(document: Document) -> GraphShapes:
    """Return the shapes of a document's values, and what they cost.

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
        if problem is not None:
            raise InputError(f"{where} does not fit its input of shape {', '.join(map(str, inputs))}: {problem}")
        shape = node.output_shape(inputs)
        shapes.append(shape)
        for value in node.inputs:
            last_use[value] = index
        work = node.work(inputs, shape)
        multiply_adds += work.multiply_adds
        cost += _cost(work)
        if cost > LARGEST_COST:
            raise InputError(f"{where} brings the network above {LARGEST_COST:,} multiply-adds for one image")
    last_use[-1] = len(document.nodes)
    if shapes[-1] != (len(document.classes),):
        raise InputError(f"the logits have the shape {shapes[-1]}, but there are {len(document.classes)} classes")
    live = _live(shapes, last_use)
    if live > LARGEST_LIVE:
        raise InputError(f"the network must hold {live:,} numbers at once, more than {LARGEST_LIVE:,}")
    return GraphShapes(tuple(shapes), tuple(last_use), live, multiply_adds)


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


def _problem(node: Node, inputs: list[Shape]) -> str | None:
    """Return why a node cannot read these shapes, or None."""
    problem = node.problem(inputs)
    if problem is not None:
        return problem
    shape = node.output_shape(inputs)
    if min(shape) < 1:
        return "its output would be empty"
    if max(math.prod(shape), *map(node.padded_size, inputs)) > LARGEST_VALUE:
        return f"it would take more than {LARGEST_VALUE:,} numbers"
    return None


def _cost(work: Work) -> int:
    """Return the cost of a node's work, in multiply-adds."""
    return work.products + ELEMENTWISE_COST * work.elementwise + CALL_COST * work.calls
