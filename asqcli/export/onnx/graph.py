"""The operators and constants of an ONNX graph in the making, with names that are unique."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


class Graph:
    """Operators in order; each reads values before it.

    Args:
        reserved: names that nothing gets by itself, of the graph's input and output.

    Attributes:
        nodes, constants: messages of ONNX.
    """

    def __init__(self, reserved: Iterable[str]) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._taken = set(reserved)
        self._constant_of: dict[tuple[Any, ...], str] = {}

    def unique(self, name: str) -> str:
        """Return `name`, with a number where it is taken, and take it."""
        candidate, number = name, 1
        while candidate in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        """Add a constant; return its name. Those of a layer that runs twice are there once."""
        from onnx import numpy_helper

        array = np.asarray(value, order="C")
        key = (name, array.dtype.str, array.shape, array.tobytes())
        if key not in self._constant_of:
            self._constant_of[key] = self.unique(name)
            self.constants.append(numpy_helper.from_array(array, self._constant_of[key]))
        return self._constant_of[key]

    def add(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add an operator of one output; return the name of its value.

        Args:
            inputs: names of values; empty for one that is left out.
            name: of the operator and its value, where it is free.
        """
        from onnx import helper

        name = self.unique(name)
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def call_last_value(self, name: str) -> str:
        """Rename the value of the last operator, which nothing reads yet; return the name."""
        self.nodes[-1].output[0] = name
        return name
