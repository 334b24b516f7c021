"""Check values: a checksum of each value of one image, by which another implementation finds its first difference."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from asqcli.artifact import Artifact
from asqcli.engine.dispatch import make_numpy_kernel
from asqcli.engine.numpy.network import NumpyNetwork

KERNEL = "matmul"


@dataclass(frozen=True)
class TracedValue:
    """A value of the graph.

    Attributes:
        number: as nodes name it; 0 is the image.
        node, op: of the node that makes it.
        shape: of one image.
        crc32: see `checksum`.
    """

    number: int
    node: str
    op: str
    shape: tuple[int, ...]
    crc32: str


def trace(artifact: Artifact, image: np.ndarray) -> list[TracedValue]:
    """Return every value of a network for one image, (3, size, size) float32, normalised."""
    network = NumpyNetwork(artifact, make_numpy_kernel(KERNEL), threads=1)
    made_by = [("image", "input"), *((node.name, node.op) for node in artifact.document.nodes)]
    values = network.values(image[None])
    with np.errstate(all="ignore"):  # values that overflow have checksums, too
        return [
            TracedValue(number, node, op, value.shape[1:], checksum(value[0]))
            for number, ((node, op), value) in enumerate(zip(made_by, values, strict=True))
        ]


def checksum(value: np.ndarray) -> str:
    """Return the CRC-32 of a value's numbers: float32, little-endian, in row-major order.

    >>> checksum(np.array([1.0, 0.0], np.float32))
    '58e3e4e6'
    """
    return f"{zlib.crc32(value.astype('<f4').tobytes()):08x}"
