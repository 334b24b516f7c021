"""All kinds of node together."""

from __future__ import annotations

import operator
from functools import reduce
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import Field

from asqcli.artifact.nodes import elementwise, layers, movement, pools
from asqcli.artifact.nodes.base import Node

MODULES = (layers, elementwise, pools, movement)
KINDS: tuple[type[Node], ...] = tuple(
    kind for module in MODULES for kind in Node.__subclasses__() if kind.__module__ == module.__name__
)
if TYPE_CHECKING:
    AnyNode = Node
else:
    AnyNode = Annotated[reduce(operator.or_, KINDS), Field(discriminator="op")]

Entry = TypeVar("Entry")


def for_every_kind(table: dict[type[Node], Entry]) -> dict[type[Node], Entry]:
    """Return a table by kind of node, complete.

    Raises:
        TypeError: it lacks a kind; names it.
    """
    if missing := [kind.__name__ for kind in KINDS if kind not in table]:
        raise TypeError(f"the table lacks the kind of node {', '.join(missing)}")
    return table
