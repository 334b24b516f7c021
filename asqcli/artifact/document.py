"""The JSON document inside an artifact: what stands around the nodes of its graph.

Values are numbered: 0 is the input, and node i makes value i + 1 from values before it. The last value is the logits.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from asqcli.artifact.nodes import AnyNode, Conv, Linear
from asqcli.artifact.nodes.base import Name, Side
from asqcli.strict import Strict

FORMAT = 1

Mean = Annotated[float, Field(ge=-1e6, le=1e6)]  # with the bounds of a deviation, pixels stay far inside float32
Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]


class Input(Strict):
    """From a decoded image to value 0."""

    image_size: Side
    resize: Side
    mean: tuple[Mean, Mean, Mean]
    std: tuple[Deviation, Deviation, Deviation]


class Provenance(Strict):
    """Where the network came from; for people, and without times, hosts or paths."""

    asqcli: Name
    model: Name
    scheme: Name | None = None
    data: Name | None = None
    seed: int | None = None
    epochs: int | None = None


class Document(Strict):
    format: Literal[1]
    input: Input
    classes: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(min_length=1, max_length=2**17)]
    nodes: Annotated[tuple[AnyNode, ...], Field(min_length=1, max_length=8192)]
    provenance: Provenance


def quantized_nodes(document: Document) -> list[Conv | Linear]:
    """Return the nodes that hold weight codes, in order."""
    return [node for node in document.nodes if isinstance(node, Conv | Linear)]
