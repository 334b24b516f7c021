"""A file taken apart, to be edited and put together again, and the values that edits choose from."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

METADATA = "__metadata__"
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, -1e-20, 1e20, 3.4e38, -3.4e38, math.inf, -math.inf, math.nan)
INTEGERS = (0, 1, 2, 3, 4, 7, 8, 16, 31, 64, 255, 256, 1000, 4096, 4097, 2**16, 2**24, 2**24 + 1, 2**31, 2**32, 2**63,
            2**64, 10**30, -1, -2, -255, -256, -(2**31), -(2**63))  # fmt: skip
STRANGE = (None, True, False, "", "1", "conv", [], [0], [1, 1], {}, {"op": "conv"}, 0.5, 1.0, 1e308, math.nan, math.inf)
LABELS = ("", "[/]", "[red", "\x1b[2J", "\0", "a\nb", "\u202e", "\ud800", "é" * 4096, "x" * 4097, "{0}", "%s")


@dataclass
class Parts:
    """A file taken apart.

    Attributes:
        header: entries of the tensors, without the metadata.
        metadata: what stands beside the document; `document` is put in under its key.
        data: the tensors' bytes.
        document_texts, header_texts: edits of the finished texts, for what no JSON writer would make.
    """

    header: dict
    document: dict
    data: bytearray
    metadata: dict = field(default_factory=dict)
    document_texts: list[Callable[[str], str]] = field(default_factory=list)
    header_texts: list[Callable[[str], str]] = field(default_factory=list)

    @classmethod
    def of(cls, content: bytes) -> Parts:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        document = json.loads(header.pop(METADATA)["asq"])
        return cls(header, document, bytearray(content[8 + length :]))

    def join(self) -> bytes:
        text = json.dumps(self.document)
        for edit in self.document_texts:
            text = edit(text)
        header = json.dumps({METADATA: {"asq": text} | self.metadata} | self.header)
        for edit in self.header_texts:
            header = edit(header)
        encoded = header.encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(encoded)) + encoded + self.data

    def tensor(self, name: str) -> memoryview:
        """Return the bytes of a tensor, to be changed in place."""
        return memoryview(self.data)[slice(*self.header[name]["data_offsets"])]

    def resize(self, name: str, dtype: str, shape: list[int], size: int) -> None:
        """Make a tensor anew, of zeros; what stood there goes."""
        if name in self.header:
            first, end = self.header[name]["data_offsets"]
            del self.data[first:end]
            for entry in self.header.values():
                entry["data_offsets"] = [o - (end - first) if o >= end else o for o in entry["data_offsets"]]
        first, count = len(self.data), math.prod(shape) * size
        self.header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [first, first + count]}
        self.data += bytes(count)


def any_tensor(parts: Parts, rng) -> dict:
    return parts.header[rng.choice(sorted(parts.header))]


def any_node(parts: Parts, rng, *operations: str) -> dict:
    return rng.choice([n for n in parts.document["nodes"] if not operations or n["op"] in operations])
