"""Operator fusion: which following nodes (batch norm, add, clamp, max pool) a step absorbs, and the order of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from asqcli.artifact.nodes import Add, BatchNorm, Clamp, Conv, Linear, MaxPool, Node, Pad, Slice

FIRST = (Conv, Linear, BatchNorm, Add, Clamp)  # nodes that absorb others


@dataclass
class Step:
    """A node with those that it absorbs: batch norm, sum, clamp and pool, each at most once and in this order.

    Attributes:
        index: the node's.
        absorbed: the nodes that it absorbs.
        result: the value that comes out at the end.
        g, b: tensors of the batch norm.
        other: the value that is added.
        pool: the pool of a convolution's output.
    """

    index: int
    result: int
    absorbed: list[int] = field(default_factory=list)
    g: str | None = None
    b: str | None = None
    other: int | None = None
    low: float = -math.inf
    high: float = math.inf
    clamped: bool = False
    pool: MaxPool | None = None

    @property
    def nodes(self) -> tuple[int, ...]:
        return (self.index, *self.absorbed)


def fuse(nodes: Sequence[Node], consumers: Sequence[Sequence[int]], pools: Callable[[int], bool]) -> list[Step]:
    """Return the steps of a network in the order in which they are run.

    Args:
        nodes: the document's; node k makes value k + 1.
        consumers: the nodes that read each value.
        pools: may a node, by its index, do the max pool that follows it?
    """
    fusion = _Fusion(nodes, consumers, pools)
    for index in range(len(nodes)):
        if index not in fusion.begun:
            fusion.add(index)
    return fusion.steps


class _Fusion:
    def __init__(self, nodes: Sequence[Node], consumers: Sequence[Sequence[int]], pools: Callable[[int], bool]) -> None:
        self.nodes, self.consumers, self.pools = nodes, consumers, pools
        self.steps: list[Step] = []
        self.begun: set[int] = set()  # nodes that have a step, or get one now
        self.made = {0}  # values of the steps so far

    def add(self, index: int) -> None:
        self.begun.add(index)
        step, node = Step(index, index + 1), self.nodes[index]
        if isinstance(node, FIRST):
            self._begin(step, node)
            while len(self.consumers[step.result]) == 1 and self._absorb(step, self.consumers[step.result][0]):
                pass
        self.steps.append(step)
        self.made.add(step.result)

    @staticmethod
    def _begin(step: Step, node: Node) -> None:
        match node:
            case BatchNorm():
                step.g, step.b = node.g, node.b
            case Add():
                step.other = node.inputs[1]
            case Clamp():
                _absorb_clamp(step, node)
            case _:
                pass

    def _absorb(self, step: Step, following: int) -> bool:
        """Let a step absorb the node that follows, if it can."""
        node = self.nodes[following]
        if step.pool is not None or (step.clamped and not isinstance(node, MaxPool)):
            return False
        match node:
            case BatchNorm() if step.g is None and step.other is None:
                step.g, step.b = node.g, node.b
            case Add() if step.other is None:
                others = [value for value in node.inputs if value != step.result]
                if len(others) != 1 or not self._at_hand(others[0]):
                    return False
                step.other = others[0]
            case Clamp():
                _absorb_clamp(step, node)
            case MaxPool() if isinstance(self.nodes[step.index], Conv) and self.pools(step.index):
                step.pool = node
            case _:
                return False
        self.begun.add(following)
        step.absorbed.append(following)
        step.result = following + 1
        return True

    def _at_hand(self, value: int) -> bool:
        """Is a value there, or to be had by copies alone, as the short cuts of CIFAR's ResNets are?"""
        copies = []
        while value not in self.made:
            index = value - 1
            if index in self.begun or not isinstance(self.nodes[index], Slice | Pad):
                return False
            copies.append(index)
            value = self.nodes[index].inputs[0]
        for index in reversed(copies):
            self.add(index)
        return True


def _absorb_clamp(step: Step, node: Clamp) -> None:
    step.low = -math.inf if node.low is None else node.low
    step.high = math.inf if node.high is None else node.high
    step.clamped = True
