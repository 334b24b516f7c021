"""Reading and writing artifacts. Nothing in a file that is read is trusted; FORMAT.md says what a file must hold."""

from __future__ import annotations

import json
import reprlib
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from asqcli.artifact.document import FORMAT, Document
from asqcli.artifact.nodes import Conv, Linear, Node, Weights
from asqcli.artifact.nodes.base import Account, TensorSpec
from asqcli.artifact.nodes.layers import largest_weight_sum
from asqcli.artifact.shapes import GraphShapes, infer_shapes
from asqcli.errors import InputError, first_line, printable
from asqcli.files import check_readable, what_is_wrong

KEY = "asq"
SUFFIX = ".asq"
LARGEST_FILE = 2**31  # bytes: three times the codes of RegNet-Y-128GF with 8-bit weights
LARGEST_DOCUMENT = 2**22  # characters: nested in the worst way, they take 100 times as many bytes
LARGEST_REPEATED = 2**22  # numbers of tensors named again: the engine unpacks a byte to 8 weights at most, each time
LARGEST_MESSAGE = 500  # characters of a reason that a file has a part in


@dataclass(frozen=True)
class Artifact:
    """A network as integers, checked.

    Attributes:
        document: nodes and settings.
        tensors: by name.
        graph: shapes of its values, and what it costs.
    """

    document: Document
    tensors: dict[str, np.ndarray]
    graph: GraphShapes

    @classmethod
    def checked(cls, document: Document, tensors: dict[str, np.ndarray]) -> Artifact:
        """Return the artifact of a document and its tensors.

        Raises:
            InputError: they do not fit each other; says where.
        """
        artifact = cls(document, tensors, infer_shapes(document))
        used: Counter[str] = Counter()
        owners: dict[str, Node] = {}
        for index, node in enumerate(document.nodes):
            where = f"node {index} (`{node.name}`)"
            specs = artifact.tensors_of(node)
            for spec in specs:
                _check_tensor(tensors, spec, where)
                used[spec.name] += 1
            _check_owner(node, specs, owners, where)
        if unused := sorted(set(tensors) - set(used)):
            raise InputError(f"the tensor `{unused[0]}` belongs to no node")
        if sum((times - 1) * tensors[name].size for name, times in used.items()) > LARGEST_REPEATED:
            raise InputError(f"nodes name the same tensors again for more than {LARGEST_REPEATED:,} numbers")
        for node in document.nodes:
            if (problem := node.content_problem(tensors)) is not None:
                raise InputError(problem)
        return artifact

    def tensors_of(self, node: Node) -> list[TensorSpec]:
        """Return the tensors that a node names, with what they must be."""
        return list(node.tensors([self.graph.shapes[value] for value in node.inputs]))

    def levels(self, weights: Weights) -> np.ndarray:
        """Return the integer weights of a layer, int8, of the shape that its document names."""
        return weights.integers(self.tensors)

    def largest_sum(self, node: Conv | Linear, levels: np.ndarray | None = None) -> int:
        """Return a bound on the magnitude of every partial sum of a layer: largest code * max_c sum |w|.

        Args:
            levels: of its weights, where they are at hand.
        """
        return node.activations.largest_code * largest_weight_sum(
            self.levels(node.weights) if levels is None else levels
        )


def _check_owner(node: Node, specs: list[TensorSpec], owners: dict[str, Node], where: str) -> None:
    """Refuse tensors that stand for two things: an engine packs each of them once, as the first node needs it."""
    if not specs:
        return
    layer = node.model_copy(update={"name": "", "inputs": (0,)})
    named = Counter(spec.name for spec in specs)
    for spec in specs:
        if "/" in spec.name:
            raise InputError(f"{where} names the tensor `{spec.name}`, and `/` is not allowed")
        if spec.shared and named[spec.name] == 1:
            continue  # read, not packed: layers may share it
        if owners.setdefault(spec.name, layer) != layer or named[spec.name] > 1:
            raise InputError(f"{where} names the tensor `{spec.name}`, which stands for something else, too")


def _check_tensor(tensors: dict[str, np.ndarray], spec: TensorSpec, where: str) -> None:
    tensor = tensors.get(spec.name)
    if tensor is None:
        raise InputError(f"{where} names the tensor `{spec.name}`, which is not there")
    if tensor.dtype != spec.dtype or tensor.shape != spec.shape:
        needed, found = f"{spec.dtype} {spec.shape}", f"{tensor.dtype} {tensor.shape}"
        raise InputError(f"{where} needs the tensor `{spec.name}` as {needed}, but it is {found}")
    if spec.dtype == "float32" and not np.isfinite(tensor).all():
        raise InputError(f"{where} has a tensor `{spec.name}` with NaN or infinity")


def write_artifact(artifact: Artifact) -> bytes:
    """Return the bytes of the file: the same for the same artifact."""
    text = json.dumps(artifact.document.model_dump(mode="json"), separators=(",", ":"), ensure_ascii=True)
    # One metadata key, because safetensors writes several in random order.
    return save({name: np.ascontiguousarray(t) for name, t in artifact.tensors.items()}, metadata={KEY: text})


def read_artifact(path: Path) -> Artifact:
    """Read a file.

    Raises:
        InputError: missing, corrupt, of a format that this version does not know, or not consistent; says why.
    """
    text, tensors = _read(path)
    _check_version(path, text)
    try:
        # From JSON once more, and not from what was read for the version: strict models take no lists for tuples.
        document = Document.model_validate_json(text)
        return Artifact.checked(document, tensors)
    except ValidationError as error:
        raise InputError(f"`{path}` is not a valid artifact: {_plain(what_is_wrong(error))}") from error
    except InputError as error:
        raise InputError(f"`{path}` is not a valid artifact: {_plain(error.message)}") from error


def _check_version(path: Path, text: str) -> None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"`{path}` is corrupt: its document is not JSON") from error
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise InputError(
            f"`{path}` has the format {reprlib.repr(version)}, and this asq knows {FORMAT}",
            "export it again, or install a newer asq",
        )


def _plain(text: str) -> str:
    """Return a reason that a file has a part in as one line of a sane length."""
    return printable(text if len(text) <= LARGEST_MESSAGE else text[:LARGEST_MESSAGE] + "..")


def is_artifact(path: Path) -> bool:
    """Does a file claim to be an exported network?"""
    try:
        if not path.is_file():
            return False
        with safe_open(path, framework="numpy") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Return the document's text and the tensors."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise InputError(f"`{path}` cannot be read: it is not a file")
        if status.st_size > LARGEST_FILE:
            raise InputError(f"`{path}` is larger than {LARGEST_FILE:,} bytes")
        check_readable(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if set(metadata) != {KEY}:
                raise InputError(f"`{path}` is not an exported network", "`asq export RUN` writes one")
            if len(metadata[KEY]) > LARGEST_DOCUMENT:
                raise InputError(f"the document of `{path}` is larger than {LARGEST_DOCUMENT:,} characters")
            return metadata[KEY], {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"`{path}` is corrupt or not an exported network: {_plain(first_line(error))}") from error
    except OSError as error:
        raise InputError(f"`{path}` cannot be read: {error.strerror or error}") from error


def part_bytes(artifact: Artifact) -> dict[str, int]:
    """Return the bytes of each part of the file; they add up to its size."""
    parts: dict[str, int] = dict.fromkeys(get_args(Account), 0)
    account_of = {spec.name: spec.account for node in artifact.document.nodes for spec in artifact.tensors_of(node)}
    for name, account in account_of.items():
        parts[account] += artifact.tensors[name].nbytes
    parts["graph"] = len(write_artifact(artifact)) - sum(parts.values())
    return parts
