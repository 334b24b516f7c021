"""Files from a stranger are refused with a reason or give an answer: mutants by seed, and wrong files by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from torch import nn

from asqcli.api import quantize_module
from asqcli.artifact import Artifact, document, read_artifact, write_artifact
from asqcli.artifact.file import KEY, LARGEST_DOCUMENT, LARGEST_FILE, is_artifact
from asqcli.engine.interface import NotNative
from asqcli.engine.native.planner import Plan
from asqcli.errors import InputError
from asqcli.export.network import export_network
from asqcli.models.cifar_resnet import CifarResNet
from tests.artifact.mixed import MixedNet
from tests.permissions import unreadable

pytestmark = pytest.mark.slow

RUNNER = Path(__file__).parent / "hostile.py"
MUTANTS = 200


def export(network: nn.Module, classes: int, path: Path, **settings) -> Path:
    torch.manual_seed(0)
    quantize_module(network, [torch.randn(4, 3, 16, 16)], **settings)
    for name, parameter in network.named_parameters():
        if "adapter" in name:
            nn.init.normal_(parameter, std=0.3)
    preprocessing = document.Input(image_size=16, resize=18, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    artifact = export_network(
        network,
        classes=tuple(f"class {n}" for n in range(classes)),
        preprocessing=preprocessing,
        provenance=document.Provenance(asqcli="test", model="test"),
    )
    path.write_bytes(write_artifact(artifact))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two artifacts, `mixed.asq` and `resnet.asq`, and an image."""
    folder = tmp_path_factory.mktemp("hostile")
    torch.manual_seed(0)
    export(MixedNet(), 5, folder / "mixed.asq", scheme="post", bits=4)
    export(CifarResNet(8), 10, folder / "resnet.asq", scheme="asq", bits=3)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    return folder


def test_mutants_are_refused_with_a_reason_or_give_an_answer(folder):
    done = subprocess.run(
        [sys.executable, RUNNER, "mixed.asq", "resnet.asq", "--image", "image.png", "--count", str(MUTANTS)],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def refused(path: Path, text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_artifact(path)
    assert text in caught.value.message and not is_artifact(path)


def test_what_is_no_artifact(tmp_path):
    (tmp_path / "empty.asq").touch()
    refused(tmp_path / "empty.asq", "is corrupt or not an exported network")
    refused(tmp_path, "cannot be read: it is not a file")
    refused(tmp_path / "absent.asq", "cannot be read: No such file or directory")
    Image.new("RGB", (8, 8)).save(tmp_path / "image.asq", format="png")
    refused(tmp_path / "image.asq", "is corrupt or not an exported network")
    save_file({"weight": np.ones(3, np.float32)}, tmp_path / "weights.asq")
    refused(tmp_path / "weights.asq", "is not an exported network")
    save_file({"weight": np.ones(3, np.float32)}, tmp_path / "other.asq", metadata={"format": "pt"})
    refused(tmp_path / "other.asq", "is not an exported network")
    (tmp_path / "first.asq").symlink_to("second.asq")
    (tmp_path / "second.asq").symlink_to("first.asq")
    refused(tmp_path / "first.asq", "cannot be read: Too many levels of symbolic links")
    os.mkfifo(tmp_path / "pipe.asq")
    refused(tmp_path / "pipe.asq", "cannot be read: it is not a file")
    with open(tmp_path / "large.asq", "wb") as file:
        file.truncate(LARGEST_FILE + 1)
    refused(tmp_path / "large.asq", f"is larger than {LARGEST_FILE:,} bytes")


def test_a_file_without_permission(folder, tmp_path, monkeypatch):
    path = tmp_path / "secret.asq"
    path.write_bytes((folder / "mixed.asq").read_bytes())
    with unreadable(path, monkeypatch) as secret:
        refused(secret, "cannot be read: Permission denied")


@pytest.fixture
def changed(folder, tmp_path):
    """Write `mixed.asq` with another document or other tensors; return its path."""

    def write(edit, tensors=lambda tensors: tensors) -> Path:
        artifact = read_artifact(folder / "mixed.asq")
        content = json.loads(artifact.document.model_dump_json())
        text = json.dumps(edit(content) or content)
        save_file(tensors(artifact.tensors), tmp_path / "changed.asq", metadata={KEY: text})
        return tmp_path / "changed.asq"

    return write


def refuses(path: Path, text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_artifact(path)
    assert text in caught.value.message, caught.value.message


def test_versions_are_named_and_kept_short(changed):
    refuses(changed(lambda d: d | {"format": 99}), "has the format 99, and this asq knows 1")
    refuses(changed(lambda d: d | {"format": "9" * 10**6}), "...")
    refuses(changed(lambda d: [d]), "has the format None")
    path = changed(lambda d: d | {"extra": "x" * LARGEST_DOCUMENT})
    refuses(path, f"the document of `{path}` is larger than 4,194,304 characters")


def test_tensors_of_no_numbers(changed):
    path = changed(lambda d: None, lambda tensors: {name: t[:0] for name, t in tensors.items()})
    refuses(path, "needs the tensor `stem.codes` as uint8 (216,), but it is uint8 (0,)")


def test_reasons_are_one_line_that_a_terminal_can_show(changed):
    def edit(document):
        document["nodes"][0]["name"] = "\x1b[2J\n" + "a" * 400
        document["nodes"][0]["groups"] = 2

    with pytest.raises(InputError) as caught:
        read_artifact(changed(edit))
    assert "\\x1b[2J\\na" in caught.value.message and len(caught.value.message) < 1000


def before_all(*nodes: dict):
    """Return an edit that puts nodes between the input and what read it; they read each other."""

    def edit(document):
        for node in document["nodes"]:
            node["inputs"] = [i + len(nodes) for i in node["inputs"]]
        document["nodes"][:0] = [{"name": "", "inputs": [i]} | node for i, node in enumerate(nodes)]

    return edit


POOL = {"op": "max_pool", "stride": [1, 1], "dilation": [1, 1]}
LARGE = {"op": "adaptive_avg_pool", "output_size": [2048, 2048]}
SMALL = {"op": "adaptive_avg_pool", "output_size": [16, 16]}


@pytest.mark.parametrize(
    "nodes",
    [
        [POOL | {"kernel_size": [2048, 2048], "padding": [1024, 1023, 1023, 1024]}],  # millions of small steps
        [LARGE, *[{"op": "silu"}] * 20],
        [LARGE, *[{"op": "slice", "axis": 1, "start": 0, "stop": 1, "step": 1}, LARGE] * 20],
    ],
    ids=["windows", "gates", "slices"],
)
def test_what_would_take_too_long(changed, nodes):
    refuses(changed(before_all(*nodes)), "brings the network above 137,438,953,472 multiply-adds")


def test_memory_that_a_native_plan_would_keep(changed):
    """Memory with a border of zeros is never used again: a network of many runs on NumPy, which gives it back."""
    border = {"op": "pad", "before": [0, 1000, 1000], "after": [0, 1000, 1000]}
    inside = [{"op": "slice", "axis": axis, "start": 1000, "stop": 1016, "step": 1} for axis in (1, 2)]
    artifact = read_artifact(changed(before_all(*[border, *inside] * 6)))
    with pytest.raises(NotNative, match="values and codes of more than 268,435,456 bytes together"):
        Plan(artifact, {})


def test_a_tensor_stands_for_one_thing(changed):
    """An engine that packs it once for the first layer could read beyond its end for the second."""

    def edit(document):
        document["nodes"][1]["g"] = document["nodes"][1]["b"]

    def without_g(tensors):
        return {name: t for name, t in tensors.items() if name != "norm.g"}

    refuses(changed(edit, without_g), "the tensor `norm.b`, which stands for something else, too")

    def swap(document):
        layers = [n for n in document["nodes"] if n["name"] in ("depthwise", "squeeze")]
        layers[1]["activations"]["step_size"] = layers[0]["activations"]["step_size"]

    def without_step(tensors):
        return {name: t for name, t in tensors.items() if name != "squeeze.step_size"}

    refuses(changed(swap, without_step), "the tensor `depthwise.step_size`, which stands for something else, too")


def test_names_of_tensors_hold_no_slash(changed):
    def edit(document):
        document["nodes"][0]["weights"]["scale"] = "stem.codes/compensation"

    def rename(tensors):
        return {{"stem.scale": "stem.codes/compensation"}.get(name, name): t for name, t in tensors.items()}

    refuses(changed(edit, rename), "`/` is not allowed")


def test_tensors_named_again_and_again(folder):
    """A small file stands for at most so many weights."""
    artifact = read_artifact(folder / "resnet.asq")
    place, layer = next((i, n) for i, n in enumerate(artifact.document.nodes) if n.name == "layer3.0.conv2")
    content = json.loads(artifact.document.model_dump_json())
    for node in content["nodes"][place + 1 :]:
        node["inputs"] = [i + 1000 * (i > place) for i in node["inputs"]]
    again = content["nodes"][place]
    content["nodes"][place + 1 : place + 1] = [again | {"inputs": [place + 1 + n]} for n in range(1000)]
    assert layer.weights.shape == (64, 64, 3, 3)
    changed = document.Document.model_validate_json(json.dumps(content))
    with pytest.raises(InputError, match="name the same tensors again for more than 4,194,304 numbers"):
        Artifact.checked(changed, artifact.tensors)


def test_an_adapter_of_several_numbers(changed):
    def edit(document):
        layer = document["nodes"][3]["activations"]["adapter"]["layers"][-1]
        layer["outputs"] = 8

    def widen(tensors):
        for key in ("weight", "row_scale", "bias"):
            name = f"depthwise.adapter.1.{key}"
            tensors[name] = np.repeat(tensors[name], 8, axis=0)
        return tensors

    refuses(changed(edit, widen), "the adapter of `depthwise` gives more than one number")
