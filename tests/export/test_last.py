"""What networks return in place of logits: a log_softmax at the end is left out of the file, anything else refused."""

import re

import pytest
import torch
from asq_process import QUICK, asq, fails
from torch import nn
from torch.nn import functional as F

from asqcli.api import export_module, quantize_module
from asqcli.arithmetic import formulas
from asqcli.artifact import document as doc
from asqcli.artifact import read_artifact
from asqcli.engine import load
from asqcli.errors import UnsupportedError
from asqcli.export.network import export_network
from asqcli.nn.forward import forward_in_evaluation, logits_before_log_softmax

SIZE = 8


class Net(nn.Module):
    def __init__(self, last) -> None:
        super().__init__()
        self.stem, self.head, self.last = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), last

    def forward(self, x):
        return self.last(self.head(self.stem(x).relu().mean((2, 3))))


def quantized(last) -> nn.Module:
    torch.manual_seed(0)
    return quantize_module(Net(last).eval(), [torch.randn(8, 3, SIZE, SIZE)]).eval()


LEFT_OUT = {
    "function": lambda x: F.log_softmax(x, 1),
    "last dimension": lambda x: F.log_softmax(input=x, dim=-1),
    "method": lambda x: x.log_softmax(1),
    "layer": nn.LogSoftmax(dim=1),
    "special": lambda x: torch.special.log_softmax(x, 1),
}
REFUSED = {
    "softmax": (lambda x: F.softmax(x, 1), "`softmax` cannot be exported: the engine makes no probabilities"),
    "layer": (nn.Softmax(1), r"layer `last` \(Softmax\) cannot be exported: the engine makes no probabilities"),
    "more behind it": (lambda x: F.log_softmax(x, 1) * 2, "`mul` cannot be exported: it computes with a log_softmax"),
    "over the images": (lambda x: F.log_softmax(x, 0), "over the classes of"),
    "in double": (lambda x: F.log_softmax(x, 1, dtype=torch.float64), "computes in torch.float64"),
}


@pytest.mark.parametrize("chosen", LEFT_OUT)
def test_a_log_softmax_at_the_end_is_left_out(chosen, tmp_path):
    net, images = quantized(LEFT_OUT[chosen]), torch.randn(5, 3, SIZE, SIZE)
    export_module(net, tmp_path / "net.asq", image_size=SIZE, classes="abcd")
    assert read_artifact(tmp_path / "net.asq").document.nodes[-1].name == "head"
    logits = torch.from_numpy(load(tmp_path / "net.asq").run(images.numpy()))
    assert torch.equal(logits, logits_before_log_softmax(net, images))
    assert torch.equal(F.log_softmax(logits, 1), forward_in_evaluation(net, images))


@pytest.mark.parametrize("chosen", REFUSED)
def test_refused_with_the_reason(chosen, tmp_path):
    last, text = REFUSED[chosen]
    with pytest.raises(UnsupportedError, match=text):
        export_module(quantized(last), tmp_path / "net.asq", image_size=SIZE, classes="abcd")


def test_constants_are_computed_as_in_evaluation(tmp_path):
    """Its own sigmoid of a constant has other last bits in torch's arithmetic than in the fixed one."""
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    scale = numbers[torch.sigmoid(numbers) != formulas.sigmoid(torch, numbers)][:4].clone()
    assert len(scale) == 4 and not torch.equal(torch.sigmoid(scale), formulas.sigmoid(torch, scale))
    net = quantized(lambda x: x * torch.sigmoid(scale) + scale.unflatten(0, (2, 2)).mean(1).repeat(2))
    export_module(net, tmp_path / "net.asq", image_size=SIZE, classes="abcd")


def test_who_exports_is_told():
    told: list[str] = []
    for last in (nn.LogSoftmax(1), nn.Identity()):
        export_network(
            quantized(last),
            classes=tuple("abcd"),
            preprocessing=doc.Input(image_size=SIZE, resize=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3),
            provenance=doc.Provenance(asqcli="test", model="test"),
            tell=told.append,
        )
    [text] = told
    assert re.match(r"the file ends with the logits, before layer `last` \(LogSoftmax\), at test_last.py:\d+: `", text)


NETWORKS = """
from torch import nn


def net(num_classes, last=None):
    features = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*features, nn.Linear(8, num_classes), last or nn.LogSoftmax(1))


def probabilities(num_classes):
    return net(num_classes, nn.Softmax(1))
"""


@pytest.mark.slow
def test_from_training_to_verified_answers(tmp_path):
    (tmp_path / "nets.py").write_text(NETWORKS)
    done = asq("quantize", "nets:net", *QUICK, "--out", "r", cwd=tmp_path)
    assert done.returncode == 0 and "cannot be exported" not in done.stderr, done.stderr
    exported = asq("export", "r", "--model", "nets:net", "--data", "digits", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert "note: the file ends with the logits, before layer `5` (LogSoftmax)" in exported.stderr
    verify = ("--verify", "--run", "r", "--model", "nets:net")
    assert asq("infer", "r/r.asq", "--data", "digits", *verify, cwd=tmp_path).returncode == 0
    told = asq("quantize", "nets:probabilities", "--dry-run", cwd=tmp_path).stderr
    assert "cannot be exported: layer `5` (Softmax) cannot be exported: the engine makes no probabilities" in told
    asq("quantize", "nets:probabilities", *QUICK, "--out", "p", cwd=tmp_path)
    fails(4, "the engine makes no probabilities", "export", "p", "--model", "nets:probabilities", cwd=tmp_path,
          hint="where it is the network's last operation, return the logits themselves")  # fmt: skip
