"""Reading and writing artifacts. Nothing in a file that is read is trusted; FORMAT.md says what a file must hold."""

from __future__ import annotations

import json
import math
import reprlib
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from asqcli.artifact.document import (
    FORMAT,
    BatchNorm,
    Conv,
    Document,
    Linear,
    Part,
    Weights,
    quantized_nodes,
)
from asqcli.artifact.packing import packed_size, unpack
from asqcli.artifact.shapes import Plan, plan_document
from asqcli.errors import InputError, first_line, printable
from asqcli.files import check_readable, what_is_wrong

KEY = "asq"
SUFFIX = ".asq"
LARGEST_FILE = 2**28  # bytes: twice VGG-19 with 8-bit weights
LARGEST_DOCUMENT = 2**22  # characters: nested in the worst way, they take 100 times as many bytes
LARGEST_REPEATED = 2**22  # numbers of tensors named again: the engine unpacks a byte to 8 weights at most, each time
LARGEST_MESSAGE = 500  # characters of a reason that a file has a part in
LARGEST_ACCUMULATOR = 2**31 - 1
LARGEST_CODE = 255  # counted from qmin
UNPACKED_AT_ONCE = 2**16  # codes, a multiple of 8: they begin at a whole byte

Expected = tuple[str, str, tuple[int, ...]]  # a tensor's name, dtype and shape


@dataclass(frozen=True)
class Artifact:
    """A network as integers, checked.

    Attributes:
        document: nodes and settings.
        tensors: by name.
        plan: shapes and cost.
    """

    document: Document
    tensors: dict[str, np.ndarray]
    plan: Plan

    @classmethod
    def checked(cls, document: Document, tensors: dict[str, np.ndarray]) -> Artifact:
        """Return the artifact of a document and its tensors.

        Raises:
            InputError: they do not fit each other; says where.
        """
        plan = plan_document(document)
        channels = {index: plan.shapes[node.inputs[0]][0] for index, node in enumerate(document.nodes)}
        used: Counter[str] = Counter()
        owners: dict[str, Part] = {}
        for index, node in enumerate(document.nodes):
            where = f"node {index} (`{node.name}`)"
            expected = list(_expected_tensors(node, channels[index]))
            for name, dtype, shape in expected:
                _check_tensor(tensors, name, dtype, shape, where)
                used[name] += 1
            _check_owner(node, [name for name, *_ in expected], owners, where)
        if unused := sorted(set(tensors) - set(used)):
            raise InputError(f"the tensor `{unused[0]}` belongs to no node")
        if sum((times - 1) * tensors[name].size for name, times in used.items()) > LARGEST_REPEATED:
            raise InputError(f"nodes name the same tensors again for more than {LARGEST_REPEATED:,} numbers")
        artifact = cls(document, tensors, plan)
        for node in quantized_nodes(document):
            artifact._check_values(node)
        return artifact

    def levels(self, weights: Weights) -> np.ndarray:
        """Return the integer weights of a layer, int8, of the shape that its document names."""
        packed, table, bits = self.tensors[weights.codes], self.tensors[weights.levels], weights.code_bits
        levels = np.empty(math.prod(weights.shape), np.int8)
        for first in range(0, len(levels), UNPACKED_AT_ONCE):
            part = levels[first : first + UNPACKED_AT_ONCE]
            part[:] = table[unpack(packed[first // 8 * bits :], bits, len(part))]
        return levels.reshape(weights.shape)

    def largest_sum(self, node: Conv | Linear, levels: np.ndarray | None = None) -> int:
        """Return a bound on the magnitude of every partial sum of a layer: largest code * max_c sum |w|.

        Args:
            levels: of its weights, where they are at hand.
        """
        levels = self.levels(node.weights) if levels is None else levels
        return max(-node.activations.qmin, node.activations.qmax) * self.largest_weight_sum(levels)

    @staticmethod
    def largest_weight_sum(levels: np.ndarray) -> int:
        """Return max_c sum |w|."""
        magnitudes = np.abs(levels.astype(np.int16)).reshape(len(levels), -1)
        return int(magnitudes.sum(axis=1, dtype=np.int64).max())

    def _check_values(self, node: Conv | Linear) -> None:
        activations = node.activations
        if not activations.qmin < activations.qmax <= activations.qmin + 255:
            raise InputError(f"`{node.name}` has the code range {activations.qmin} to {activations.qmax}")
        if self.tensors[activations.step_size][0] <= 0:
            raise InputError(f"the step size of `{node.name}` is not above 0")
        if activations.adapter is not None and activations.adapter.layers[-1].outputs != 1:
            raise InputError(f"the adapter of `{node.name}` gives more than one number")
        # An engine may add up codes above qmin, which reach 255, and take the rest off later. Few are unpacked for it.
        table = np.abs(self.tensors[node.weights.levels].astype(np.int64))
        bound = math.prod(node.weights.shape[1:]) * int(table.max()) * LARGEST_CODE
        if bound > LARGEST_ACCUMULATOR and (
            self.largest_weight_sum(self.levels(node.weights)) * LARGEST_CODE > LARGEST_ACCUMULATOR
        ):
            raise InputError(f"the accumulators of `{node.name}` can overflow 32 bits")


def _expected_tensors(node, channels: int) -> Iterator[Expected]:
    """Yield the tensors that a node names, with what they must be; `channels`: of the node's input."""
    if isinstance(node, BatchNorm):
        yield node.g, "float32", (channels,)
        yield node.b, "float32", (channels,)
    if not isinstance(node, Conv | Linear):
        return
    weights, activations = node.weights, node.activations
    outputs = weights.shape[0]
    yield weights.codes, "uint8", (packed_size(math.prod(weights.shape), weights.code_bits),)
    yield weights.levels, "int8", (2**weights.code_bits,)
    yield weights.scale, "float32", (outputs if weights.scale_per == "channel" else 1,)
    if weights.bias is not None:
        yield weights.bias, "float32", (outputs,)
    yield activations.step_size, "float32", (1,)
    inputs = channels
    for layer in () if activations.adapter is None else activations.adapter.layers:
        if layer.row_scale is not None:
            yield layer.row_scale, "float32", (layer.outputs,)
        yield layer.weight, "float32" if layer.row_scale is None else "int8", (layer.outputs, inputs)
        yield layer.bias, "float32", (layer.outputs,)
        inputs = layer.outputs


def _check_owner(node, names: list[str], owners: dict[str, Part], where: str) -> None:
    """Refuse tensors that stand for two things: an engine packs each of them once, as the first node needs it."""
    if not names:
        return
    layer = node.model_copy(update={"name": "", "inputs": (0,)})
    for name in names:
        if "/" in name:
            raise InputError(f"{where} names the tensor `{name}`, and `/` is not allowed")
        if isinstance(node, Conv | Linear) and name == node.weights.levels and names.count(name) == 1:
            continue  # read, not packed: layers may share it
        if owners.setdefault(name, layer) != layer or names.count(name) > 1:
            raise InputError(f"{where} names the tensor `{name}`, which stands for something else, too")


def _check_tensor(tensors: dict[str, np.ndarray], name: str, dtype: str, shape: tuple[int, ...], where: str) -> None:
    tensor = tensors.get(name)
    if tensor is None:
        raise InputError(f"{where} names the tensor `{name}`, which is not there")
    if tensor.dtype != dtype or tensor.shape != shape:
        raise InputError(
            f"{where} needs the tensor `{name}` as {dtype} {shape}, but it is {tensor.dtype} {tensor.shape}"
        )
    if dtype == "float32" and not np.isfinite(tensor).all():
        raise InputError(f"{where} has a tensor `{name}` with NaN or infinity")


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
    parts = dict.fromkeys(
        ("codes", "level_tables", "weight_scales", "biases", "step_sizes", "adapters", "batch_norms"), 0
    )
    counted: set[str] = set()

    def count(part: str, *names: str | None) -> None:
        for name in names:
            if name is not None and name not in counted:
                counted.add(name)
                parts[part] += artifact.tensors[name].nbytes

    for node in artifact.document.nodes:
        if isinstance(node, BatchNorm):
            count("batch_norms", node.g, node.b)
        if isinstance(node, Conv | Linear):
            count("codes", node.weights.codes)
            count("level_tables", node.weights.levels)
            count("weight_scales", node.weights.scale)
            count("biases", node.weights.bias)
            count("step_sizes", node.activations.step_size)
            for layer in () if node.activations.adapter is None else node.activations.adapter.layers:
                count("adapters", layer.weight, layer.row_scale, layer.bias)
    parts["graph"] = len(write_artifact(artifact)) - sum(parts.values())
    return parts
