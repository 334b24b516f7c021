"""What is told before training, against what an export then holds."""

import copy
import re
import signal

import pytest
import torch
from asq_process import asq, fails
from torch import nn

from asqcli.api import export_module, quantize_module
from asqcli.artifact import read_artifact
from asqcli.artifact.file import part_bytes
from asqcli.errors import AsqWarning, Interruption
from asqcli.nn.survey import survey
from asqcli.recipe.layers import resolve_layers
from asqcli.recipe.load import Draft, check, overlay_scheme
from asqcli.recipe.schema import Quantization
from asqcli.run import trial_export
from asqcli.run.trial_export import findings

CLASSES = tuple("0123456789")


def told(model, hidden="quarter"):
    draft = Draft()
    overlay_scheme(draft, "post", 4)
    draft.overlay({"activations": {"adapter": {"hidden": hidden}}}, "")
    example = torch.zeros(1, 3, 8, 8)
    specs = resolve_layers(check(draft, "", Quantization), survey(model, example).layers, source="")
    return list(findings(model, specs, example, CLASSES))


def wide(middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 256, 1), middle, nn.Conv2d(256, 256, 3, groups=256), nn.AvgPool2d(6), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip


def test_large_adapters_are_told_with_what_would_make_them_small(tmp_path):
    model = wide(nn.ReLU())
    [text] = told(model)
    for hidden, place in (("quarter", 0), (8, 1)):
        network = quantize_module(
            copy.deepcopy(model), [torch.randn(4, 3, 8, 8)], activations={"adapter": {"hidden": hidden}}
        )
        export_module(network, tmp_path / "net.asq", image_size=8, classes=CLASSES)
        artifact = read_artifact(tmp_path / "net.asq")
        share, size = re.findall(r"(\d+%) of (?:the exported )?([0-9,]+)", text)[place]
        adapters, size = part_bytes(artifact)["adapters"], int(size.replace(",", ""))
        assert abs(size - (tmp_path / "net.asq").stat().st_size) < 100  # who made it is not known yet
        assert share == f"{adapters / size:.0%}"
    assert "hidden=8" in text and not any("hidden=8" in line for line in told(model, hidden=8))
    assert told(model, hidden=1) == []


def test_what_cannot_be_exported_is_told_before_training():
    [text] = told(wide(nn.Mish()))
    assert text.startswith("what is trained here cannot be exported: layer `1` (Mish)")


def test_users_of_the_python_api_are_told_the_same():
    with pytest.warns(AsqWarning, match=r"what is trained here cannot be exported: layer `1` \(Mish\)"):
        quantize_module(wide(nn.Mish()), [torch.randn(4, 3, 8, 8)])
    with pytest.warns(AsqWarning, match="the adapters will take"):
        quantize_module(wide(nn.ReLU()), [torch.randn(4, 3, 8, 8)])


def test_a_network_that_cannot_be_copied_is_tried_too_and_float_again_afterwards():
    model = wide(nn.ReLU())
    model.cache = torch.ones(2, requires_grad=True) * 2
    [text] = told(model)
    assert text.startswith("the adapters will take")
    assert [type(module) for module in model.modules()] == [type(module) for module in wide(nn.ReLU()).modules()]


NETWORKS = """
import torch
from torch import nn


class Listed(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes)
        self.layers = [self.conv]
        self.bare = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return self.head(self.layers[0](x).mean((2, 3)))


class Bare(Listed):
    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)) @ self.bare)
"""


def test_layers_past_their_twins_are_refused_before_the_float_training(tmp_path):
    (tmp_path / "own_nets.py").write_text(NETWORKS)
    told = "layer `conv` (Conv2d), which is replaced by a quantized one, is called itself, at own_nets.py:14: `return"
    for dry_run in ([], ["--dry-run"]):
        fails(4, told, "quantize", "own_nets:Listed", *dry_run, cwd=tmp_path, hint="hold layers in nn.ModuleList")
    assert not (tmp_path / "runs").exists()
    done = asq("quantize", "own_nets:Bare", "--dry-run", cwd=tmp_path)
    assert "warning: products outside of layers stay in float: `matmul` with `bare`, at own_nets.py:19" in done.stderr


def test_a_signal_ends_the_trial_too(monkeypatch):
    def stopped(*_):
        raise Interruption(signal.SIGTERM, "stopped before training began")

    monkeypatch.setattr(trial_export, "_trial", stopped)
    with pytest.raises(Interruption):
        told(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)))
