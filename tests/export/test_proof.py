"""An exported file answers as its network does, or there is no file."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asqcli.api import export_module, quantize_module
from asqcli.artifact import document as doc
from asqcli.artifact import write_artifact
from asqcli.errors import UnsupportedError
from asqcli.export.network import export_network
from asqcli.export.onnx import write_onnx
from asqcli.export.proof import Prover

SIZE = 12
INPUT = doc.Input(image_size=SIZE, resize=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
CLASSES = tuple("abcdef")


class Net(nn.Module):
    """A convolution, `between`, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, len(CLASSES))

    def between(self, x):
        return F.relu(x)

    def forward(self, x):
        return self.head(self.between(self.conv(x)).mean((2, 3)))


class Remembers(Net):
    """Clamps otherwise from its third evaluation on, the first two being those that the file is written from."""

    calls = 0

    def between(self, x):
        self.calls += not self.training
        return F.relu(x) if self.calls < 3 else x.clamp(0.0, 0.1)


class OutsideOfTorch(Net):
    def between(self, x):
        return F.relu(x if self.training else torch.from_numpy(np.abs(x.detach().numpy())))


class OverTheBatch(Net):
    def between(self, x):
        return F.relu(x) if len(x) == 2 else F.relu(x.flip(0))


def prepared(kind):
    torch.manual_seed(0)
    return quantize_module(kind(), [torch.randn(8, 3, SIZE, SIZE)]).eval()


def exported(model):
    return export_network(model, classes=CLASSES, preprocessing=INPUT, provenance=doc.Provenance(asqcli="", model=""))


def test_a_file_is_proven_on_fixed_and_on_real_inputs(tmp_path):
    model = prepared(Net)
    (tmp_path / "net.asq").write_bytes(write_artifact(exported(model)))
    real = np.random.default_rng(0).normal(size=(3, 3, SIZE, SIZE))
    proof = Prover(model, INPUT, real).prove_artifact(tmp_path / "net.asq")
    assert (proof.images, proof.max_abs_logit_difference) == (7, 0.0)


@pytest.mark.parametrize("kind", [Remembers, OutsideOfTorch, OverTheBatch])
def test_what_escapes_the_export_is_refused_and_the_earlier_file_stays(kind, tmp_path):
    file = tmp_path / "net.asq"
    export_module(prepared(Net), file, image_size=SIZE, classes=CLASSES)
    before, model = file.read_bytes(), prepared(kind)
    model.calls = 0
    with pytest.raises(UnsupportedError):
        export_module(model, file, image_size=SIZE, classes=CLASSES)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("tensor", ["conv.codes", "conv.scale", "levels.0", "head.step_size", "head.bias"])
def test_any_tensor_that_differs_is_found(tensor, tmp_path):
    model = prepared(Net)
    artifact = exported(model)
    values = artifact.tensors[tensor]
    artifact.tensors[tensor] = values[::-1].copy() if values.size > 1 else values * np.float32(1.5)
    (tmp_path / "net.asq").write_bytes(write_artifact(artifact))
    with pytest.raises(UnsupportedError, match=r"does not answer as the network does.*differ by up to"):
        Prover(model, INPUT).prove_artifact(tmp_path / "net.asq")


def test_an_onnx_file_is_run_too(tmp_path):
    pytest.importorskip("onnxruntime")
    model = prepared(Net)
    artifact, file = exported(model), tmp_path / "net.onnx"
    file.write_bytes(write_onnx(artifact))
    proof = Prover(model, INPUT).prove_onnx(file)
    assert proof.images == 4 and proof.max_abs_logit_difference < 1e-5
    artifact.tensors["conv.scale"] = artifact.tensors["conv.scale"] * 2
    file.write_bytes(write_onnx(artifact))
    with pytest.raises(UnsupportedError, match="does not answer as the network does"):
        Prover(model, INPUT).prove_onnx(file)
