"""Reading and writing artifacts. Nothing in a file that is read is trusted; FORMAT.md says what a file must hold."""

from __future__ import annotations

import json
import math
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
    Weights,
    quantized_nodes,
)
from asqcli.artifact.packing import packed_size, unpack
from asqcli.artifact.shapes import Plan, plan_document
from asqcli.errors import InputError, first_line

KEY = "asq"
SUFFIX = ".asq"
LARGEST_FILE = 2**31
LARGEST_ACCUMULATOR = 2**31 - 1

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
        used: set[str] = set()
        for index, node in enumerate(document.nodes):
            where = f"node {index} (`{node.name}`)"
            for name, dtype, shape in _expected_tensors(node, channels[index]):
                _check_tensor(tensors, name, dtype, shape, where)
                used.add(name)
        if unused := sorted(set(tensors) - used):
            raise InputError(f"the tensor `{unused[0]}` belongs to no node")
        artifact = cls(document, tensors, plan)
        for node in quantized_nodes(document):
            artifact._check_values(node)
        return artifact

    def levels(self, weights: Weights) -> np.ndarray:
        """Return the integer weights of a layer, int8, of the shape that its document names."""
        codes = unpack(self.tensors[weights.codes], weights.code_bits, math.prod(weights.shape))
        return self.tensors[weights.levels][codes].reshape(weights.shape)

    def largest_sum(self, node: Conv | Linear) -> int:
        """Return a bound on the magnitude of every partial sum of a layer: largest code * max_c sum |w|."""
        magnitudes = np.abs(self.levels(node.weights).astype(np.int64)).reshape(node.weights.shape[0], -1)
        return max(-node.activations.qmin, node.activations.qmax) * int(magnitudes.sum(axis=1).max())

    def _check_values(self, node: Conv | Linear) -> None:
        activations = node.activations
        if not activations.qmin < activations.qmax <= activations.qmin + 255:
            raise InputError(f"`{node.name}` has the code range {activations.qmin} to {activations.qmax}")
        if self.tensors[activations.step_size][0] <= 0:
            raise InputError(f"the step size of `{node.name}` is not above 0")
        if self.largest_sum(node) > LARGEST_ACCUMULATOR:
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
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"`{path}` is corrupt: its document is not JSON") from error
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise InputError(
            f"`{path}` has the format {version!r}, and this asq knows {FORMAT}",
            "export it again, or install a newer asq",
        )
    try:
        # From JSON once more, and not from `content`, whose lists strict models do not take for tuples.
        document = Document.model_validate_json(text)
        return Artifact.checked(document, tensors)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise InputError(f"`{path}` is not a valid artifact: `{place}`: {first['msg']}") from error
    except InputError as error:
        raise InputError(f"`{path}` is not a valid artifact: {error.message}") from error


def is_artifact(path: Path) -> bool:
    """Does a file claim to be an exported network?"""
    try:
        with safe_open(path, framework="numpy") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Return the document's text and the tensors."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"`{path}` is larger than {LARGEST_FILE:,} bytes")
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if set(metadata) != {KEY}:
                raise InputError(f"`{path}` is not an exported network", "`asq export RUN` writes one")
            return metadata[KEY], {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"`{path}` is corrupt or not an exported network: {first_line(error)}") from error
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
