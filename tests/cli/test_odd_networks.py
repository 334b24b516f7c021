"""Networks of a user's own through the commands: trained, opened, measured, exported, compared."""

import json

import pytest
from asq_process import QUICK, asq, fails

pytestmark = pytest.mark.slow

SOURCE = """
import random
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12)
        self.order = torch.randperm(3).tolist()
        self.linear, self.auxiliary = nn.LazyLinear(num_classes), nn.Linear(12, num_classes)
        self.steps = 0

    def get_extra_state(self):
        return {"steps": self.steps}

    def set_extra_state(self, state):
        self.steps = state["steps"]

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        x = torch.cat([x[:, 4 * k : 4 * k + 4] for k in self.order], 1).mean((2, 3))
        if self.training:
            self.steps += 1
            return self.linear(x * random.random()), self.auxiliary(x)
        return self.linear(x)

def compiled(num_classes=10):
    torch.set_grad_enabled(False)
    return torch.compile(Net(num_classes), backend="eager")

def pruned():
    net = Net()
    prune.l1_unstructured(net.conv, "weight", amount=0.5)
    return net

class Same(nn.Conv2d):
    def forward(self, x):
        rest = [max(k - (n - 1) % s - 1, 0) for n, k, s in zip(x.shape[-2:], self.kernel_size, self.stride)]
        x = F.pad(x, [rest[1] // 2, rest[1] - rest[1] // 2, rest[0] // 2, rest[0] - rest[0] // 2])
        return super().forward(x)

class NormAct(nn.BatchNorm2d):
    def forward(self, x):
        return F.silu(super().forward(x))

class Head(nn.Linear):
    def forward(self, x):
        return F.linear(x.flatten(1), self.weight.to(x.dtype), self.bias)

def derived(num_classes=10, stem=Same):
    features = stem(3, 8, 3, stride=2, bias=False), NormAct(8), Same(8, 8, 3, groups=8), nn.SyncBatchNorm(8)
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), Head(8, num_classes))

class Centred(Same):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias, self.stride)

def centred(num_classes=10):
    return derived(num_classes, Centred)

class Raises(Net):
    def forward(self, x):
        if len(x) > 2:
            raise KeyError("only in pairs")
        return super().forward(x)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "odd.py").write_text(SOURCE)
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_one_network_with_everything_odd_is_the_same_in_every_command(folder):
    distilled = ("--set", "train.distillation={weight: 0.9}", "--set", "train.average_decay=0.5")
    results = []
    for out in ("a", "b"):
        done = asq("quantize", "odd:compiled", "--out", out, "--json", *distilled, *QUICK, cwd=folder)
        assert done.returncode == 0, done.stderr
        results.append(json.loads((folder / out / "metrics.jsonl").read_text())["train_loss"])
    assert results[0] == results[1]
    assert "taken out of `torch.compile`" in done.stderr and "several outputs (tuple)" in done.stderr
    expected = json.loads(done.stdout)["top1"]
    measured = json.loads(asq("eval", "odd:compiled", "--weights", "a", "--json", cwd=folder).stdout)
    exported = asq("export", "a", "--model", "odd:compiled", "--data", "digits", "--json", cwd=folder)
    document = json.loads(exported.stdout)
    assert measured["top1"] == document["quantized_top1"] == document["integer_top1"] == expected
    verify = ("infer", "a/a.asq", "--data", "digits", "--verify", "--run", "a", "--model", "odd:compiled")
    assert asq(*verify, cwd=folder).returncode == 0


def test_layers_of_own_classes_go_through_every_command(folder):
    done = asq("quantize", "odd:derived", "--out", "d", "--json", *QUICK, cwd=folder)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    exported = json.loads(asq("export", "d", "--model", "odd:derived", "--data", "digits", "--json", cwd=folder).stdout)
    assert exported["quantized_top1"] == exported["integer_top1"] == json.loads(done.stdout)["top1"]
    verify = ("infer", "d/d.asq", "--data", "digits", "--verify", "--run", "d", "--model", "odd:derived", "--json")
    verified = json.loads(asq(*verify, cwd=folder).stdout)["verify"]
    assert verified["max_abs_logit_difference"] == verified["code_mismatches"] == 0
    layers = asq("overhead", "odd:derived", "--input-size", "16", "--per-layer", "--json", cwd=folder)
    assert [(layer["name"], layer["kind"]) for layer in json.loads(layers.stdout)["layers"]] == [
        ("0", "conv"), ("2", "depthwise"), ("5", "linear")
    ]  # fmt: skip


def test_what_cannot_be_trained_is_refused_before_there_is_a_folder(folder):
    centred = "layer `0` is a Centred, a Conv2d that makes its weights or output its own way: it never calls `conv2d`"
    fails(4, centred, "quantize", "odd:centred", "--out", "r", cwd=folder)
    fails(4, "the weight of layer `conv` (Conv2d) is computed", "quantize", "odd:pruned", "--out", "r", cwd=folder)
    assert not (folder / "r").exists()


def test_what_a_network_raises_in_a_run_is_told_with_its_place(folder):
    where = ", at odd.py:71: `raise KeyError("
    fails(4, where, "quantize", "odd:Raises", "--out", "r", *QUICK, cwd=folder)
