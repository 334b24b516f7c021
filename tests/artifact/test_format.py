"""FORMAT.md is enough: a reader of nothing but its text, in plain Python, gives the engine's logits to the bit."""

import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from asqcli.api import quantize_module
from asqcli.artifact import Artifact, document, nodes, read_artifact, write_artifact
from asqcli.artifact.file import part_bytes
from asqcli.artifact.shapes import LARGEST_COST, LARGEST_LIVE, LARGEST_VALUE
from asqcli.engine import Session
from asqcli.engine.trace import trace
from asqcli.errors import InputError
from asqcli.export.network import export_network
from tests.artifact.mixed import MixedNet
from tests.artifact.reader import Reader, in_order
from tests.engine.networks import Maker

FORMAT = (Path(document.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")


def exported(network: nn.Module, size: int, classes: str, **settings) -> Artifact:
    torch.manual_seed(0)
    quantize_module(network, [torch.randn(4, 3, size, size)], **settings)
    for name, parameter in network.named_parameters():
        if "adapter" in name:
            nn.init.normal_(parameter, std=0.5)
    preprocessing = document.Input(image_size=size, resize=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    provenance = document.Provenance(asqcli="test", model="tiny")
    return export_network(network, classes=tuple(classes), preprocessing=preprocessing, provenance=provenance)


@pytest.fixture
def artifact(tiny_net) -> Artifact:
    return exported(tiny_net, 7, "abcdefghij", scheme="post", bits=4)


def assert_the_reader_agrees(artifact: Artifact) -> None:
    """Compare bits."""
    size = artifact.document.input.image_size
    image = np.random.default_rng(0).standard_normal((3, size, size)).astype(np.float32)
    read, ours = Reader(write_artifact(artifact)).run(image), Session(artifact).run(image[None])[0]
    assert np.isfinite(ours).all() and read.tobytes() == ours.tobytes()


AS_PRINTED = {"output": "relu", "bits": "float"}


@pytest.mark.parametrize("activations", [{}, {"dequantize_by": "step_size", "adapter": AS_PRINTED}])
def test_a_reader_of_the_text_alone_gives_the_same_logits(tiny_net, activations):
    assert_the_reader_agrees(exported(tiny_net, 7, "abcdefghij", scheme="asq", bits=4, activations=activations))


def test_a_reader_of_the_text_alone_knows_every_kind_of_node():
    torch.manual_seed(0)
    artifact = exported(MixedNet(), 16, "abcde", scheme="post", bits=3)
    assert {type(node) for node in artifact.document.nodes} == set(nodes.KINDS)
    assert_the_reader_agrees(artifact)


def test_check_values_lead_a_reader_to_its_first_difference():
    torch.manual_seed(0)
    artifact = exported(MixedNet(), 16, "abcde", scheme="post", bits=3)
    image = np.random.default_rng(0).standard_normal((3, 16, 16)).astype(np.float32)
    image[0, 0, :2] = 0.0, -0.0
    expected = []
    for numbers, shape in Reader(write_artifact(artifact)).values(image):
        in_row = in_order((numbers, shape))
        expected.append((tuple(shape), f"{zlib.crc32(struct.pack(f'<{len(in_row)}f', *in_row)):08x}"))
    assert [(value.shape, value.crc32) for value in trace(artifact, image)] == expected
    names = [(value.node, value.op) for value in trace(artifact, image)]
    assert names == [("image", "input"), *((node.name, node.op) for node in artifact.document.nodes)]


def test_check_values_of_an_image_that_overflows_are_written_without_a_word(artifact):
    values = trace(artifact, np.full((3, 7, 7), 3e38, np.float32))
    assert len(values) == len(artifact.document.nodes) + 1


def corners(make: Maker) -> int:
    """Add what torch's networks hardly have; return how many numbers come out."""
    shuffled = make.add(nodes.Reshape, 0, shape=(3, 1, 2, 3, 6))
    shuffled = make.add(nodes.Transpose, shuffled, axes=(1, 2))
    shuffled = make.add(nodes.Transpose, shuffled, axes=(0, 3))
    shuffled = make.add(nodes.Reshape, shuffled, shape=(3, 6, 6))
    window = {"kernel_size": (2, 2), "stride": (2, 3)}
    average = {**window, "padding": (3, 2)}  # some windows hold nothing but border
    parts = [
        shuffled,
        make.add(nodes.AvgPool, shuffled, count_include_pad=False, **average),
        make.add(nodes.AvgPool, shuffled, count_include_pad=True, **average),
        make.add(nodes.MaxPool, shuffled, padding=(0, 1, 1, 0), dilation=(2, 1), **window),
        make.add(nodes.AdaptiveAvgPool, shuffled, output_size=(4, 9)),
        make.add(nodes.AdaptiveAvgPool, shuffled, output_size=(6, 6)),
        make.add(nodes.Clamp, shuffled, low=None, high=0.3),
        make.add(nodes.Clamp, shuffled, low=-0.1, high=0.7),
        make.add(nodes.Clamp, shuffled, low=None, high=None),
        make.add(nodes.Pad, shuffled, before=(1, 0, 2), after=(0, 3, 0)),
        make.add(nodes.Slice, shuffled, axis=2, start=1, stop=6, step=2),
    ]
    sizes = [108, 3 * 6 * 3, 3 * 6 * 3, 3 * 3 * 2, 3 * 4 * 9, 108, 108, 108, 108, 4 * 9 * 8, 3 * 6 * 3]
    flat = [make.add(nodes.Reshape, part, shape=(size,)) for part, size in zip(parts, sizes, strict=True)]
    make.add(nodes.Concat, *flat, axis=0)
    return sum(sizes)


def test_a_reader_of_the_text_alone_knows_the_corners():
    make = Maker(np.random.default_rng(0), 6)
    assert_the_reader_agrees(make.artifact(corners(make)))


def test_the_text_names_every_operation_key_and_limit():
    for kind in nodes.KINDS:
        for op in kind.model_fields["op"].annotation.__args__:
            assert f"`{op}`" in FORMAT, op
        for key in set(kind.model_fields) - {"op"}:
            assert f"`{key}`" in FORMAT, key
    for part in (nodes.Activations, nodes.Weights, nodes.Adapter, nodes.AdapterLayer, document.Input, document.Document,
                 document.Provenance):  # fmt: skip
        for key in part.model_fields:
            assert f"`{key}`" in FORMAT, key
    assert [int(n) for n in re.findall(r"2\^(\d+)", FORMAT.rpartition("A reader may")[2])] == [
        n.bit_length() - 1 for n in (LARGEST_VALUE, LARGEST_LIVE, LARGEST_COST)
    ]


def test_the_parts_add_up_to_the_file(artifact, tmp_path):
    content = write_artifact(artifact)
    parts = part_bytes(artifact)
    assert sum(parts.values()) == len(content)
    assert parts["codes"] == sum(len(t) for name, t in artifact.tensors.items() if name.endswith(".codes"))
    assert parts["batch_norms"] == 4 * 2 * (8 + 8) and parts["step_sizes"] == 4 * 5


def test_another_version_is_named(artifact, tmp_path):
    content = write_artifact(artifact).replace(b'{\\"format\\":1,', b'{\\"format\\":7,')
    (tmp_path / "new.asq").write_bytes(content)
    with pytest.raises(InputError, match="has the format 7, and this asq knows 1"):
        read_artifact(tmp_path / "new.asq")


def with_node(kind, **settings):
    """Return an edit that puts a node behind all others."""

    def edit(content: dict) -> None:
        node = kind(name="", inputs=(len(content["nodes"]),), **settings)
        content["nodes"].append(json.loads(node.model_dump_json()))

    return edit


def set_to(value, *keys):
    """Return an edit that gives a key, at the end of a way, another value."""

    def edit(content: dict) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit


REFUSED = {
    "an unknown key": set_to(0, "nodes", 0, "extra"),
    "a key that is missing": lambda content: content["nodes"][0].pop("groups"),
    "a node without `op`": lambda content: content["nodes"][0].pop("op"),
    "null where it is not allowed": set_to(None, "nodes", 0, "groups"),
    "a whole number with a point": set_to(1.0, "nodes", 0, "groups"),
    "`qmin` = `qmax`": lambda content: content["nodes"][0]["activations"].update(qmin=0, qmax=0),
    "`qmax` - `qmin` > 255": lambda content: content["nodes"][0]["activations"].update(qmin=-1, qmax=255),
    "`groups` that do not divide": set_to(2, "nodes", 0, "groups"),
    "a value that is not made before": set_to([1], "nodes", 0, "inputs"),
    "batch norm of features": with_node(nodes.BatchNorm, g="bn.g", b="bn.b"),
    "a reshape to more numbers": with_node(nodes.Reshape, shape=(11,)),
    "a slice beyond the side": with_node(nodes.Slice, axis=0, start=0, stop=11, step=1),
    "an empty slice": with_node(nodes.Slice, axis=0, start=2, stop=2, step=1),
    "borders of another rank": with_node(nodes.Pad, before=(0, 0), after=(0, 0)),
    "an axis that is not there": with_node(nodes.Transpose, axes=(0, 1)),
    "logits of another number": with_node(nodes.Slice, axis=0, start=0, stop=9, step=1),
    "a side above 4096": set_to(4097, "input", "resize"),
    "a clamp above 3 * 10^38": set_to(3.1e38, "nodes", 2, "low"),
}


@pytest.mark.parametrize("chosen", REFUSED)
def test_what_the_text_refuses_is_refused(artifact, chosen):
    content = json.loads(artifact.document.model_dump_json())
    assert content["nodes"][2]["op"] == "clamp"
    REFUSED[chosen](content)
    with pytest.raises((ValidationError, InputError)):
        Artifact.checked(document.Document.model_validate_json(json.dumps(content)), artifact.tensors)


@pytest.mark.parametrize("step_size", [0.0, -0.1, float("nan"), float("inf")])
def test_step_sizes_are_above_zero_and_finite(artifact, step_size):
    artifact.tensors["stem.step_size"][:] = step_size
    with pytest.raises(InputError, match=r"above 0|NaN or infinity"):
        Artifact.checked(artifact.document, artifact.tensors)


def test_keys_of_the_provenance_may_be_missing(artifact):
    content = json.loads(artifact.document.model_dump_json())
    for key in ("scheme", "data", "seed", "epochs"):
        del content["provenance"][key]
    assert document.Document.model_validate_json(json.dumps(content)) == artifact.document
