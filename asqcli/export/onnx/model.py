"""An artifact to ONNX: the same integers, in standard operators that any runtime has.

Values of 2 to 8 bits lie in 8-bit tensors; the metadata name the true widths, the preprocessing and the classes. Each
node of the artifact becomes the operators of its formula in FORMAT.md, in that order: batch norm stays a
multiplication and an addition, the input is multiplied by the reciprocal of its step (QuantizeLinear would divide), and
pools, adapters and sigmoids are computed in double, rounded once.

What the standard leaves to the runtime is the order of the sums inside ReduceSum and MatMul, and the last bits of Exp:
in double, here, so that about one number in 10^8 is rounded to another float32. Such a number can move a code. A
runtime that merges or reorders the float operators, or computes them in other precision, differs more.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from asqcli import __version__
from asqcli.artifact import Artifact
from asqcli.artifact.document import Document, quantized_nodes
from asqcli.errors import MachineError, UnsupportedError
from asqcli.export.onnx.graph import Graph
from asqcli.export.onnx.nodes import write_node

# Both are of 2020, so that old runtimes read the file, too; onnxruntime 1.15, 1.18 and 1.31 gave the same logits.
OPSET = 13
IR_VERSION = 7

INPUT, OUTPUT = "image", "logits"
PRODUCER = "asqcli"
LARGEST_MODEL = 2**31 - 1  # bytes of one protobuf message


def require_onnx() -> None:
    """Find out whether ONNX files can be written.

    Raises:
        MachineError: the package is missing.
    """
    if find_spec("onnx") is None:
        raise MachineError("`--format onnx` needs the package onnx", "pip install 'asqcli[onnx]'")


def write_onnx(artifact: Artifact) -> bytes:
    """Return the bytes of an ONNX file that `onnx.checker` accepts: the same for the same artifact.

    Input `image`, (N, 3, size, size) float32, normalised as the metadata `asq_input` say; output `logits`,
    (N, classes).

    Raises:
        MachineError: the package onnx is missing.
        UnsupportedError: the network is larger than an ONNX file can be.
    """
    require_onnx()
    import onnx

    model = _model(artifact)
    if model.ByteSize() > LARGEST_MODEL:
        raise UnsupportedError(f"the network takes {model.ByteSize():,} bytes in ONNX, more than {LARGEST_MODEL:,}")
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def is_own_onnx(path: Path) -> bool:
    """Does a file claim to be ONNX that asq wrote? Needs the package onnx."""
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    try:
        return path.is_file() and ModelProto.FromString(path.read_bytes()).producer_name == PRODUCER
    except (DecodeError, OSError):
        return False


def _model(artifact: Artifact):
    from onnx import TensorProto, helper

    document, shapes = artifact.document, artifact.graph.shapes
    graph = Graph(reserved=(INPUT, OUTPUT))
    values = [INPUT]
    for index, node in enumerate(document.nodes):
        last = index == len(document.nodes) - 1
        inputs = [values[value] for value in node.inputs]
        values.append(write_node(graph, artifact, index, inputs, output=OUTPUT if last else None))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "network",
            inputs=[helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ("N", *shapes[0]))],
            outputs=[helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ("N", *shapes[-1]))],
            initializer=graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
        producer_version=__version__,
    )
    helper.set_model_props(model, _metadata(document))
    return model


def _metadata(document: Document) -> dict[str, str]:
    """Return what the operators do not say, as JSON."""
    layers = [
        {
            "name": node.name,
            "weight_bits": node.weights.code_bits,
            "activation_bits": (node.activations.qmax - node.activations.qmin).bit_length(),
            "activation_range": [node.activations.qmin, node.activations.qmax],
            "adapter": node.activations.adapter is not None,
        }
        for node in quantized_nodes(document)
    ]
    content = {
        "asq_format": document.format,
        "asq_layers": layers,
        "asq_input": document.input.model_dump(mode="json"),
        "asq_classes": document.classes,
        "asq_provenance": document.provenance.model_dump(mode="json"),
    }
    return {key: json.dumps(value, separators=(",", ":")) for key, value in content.items()}
