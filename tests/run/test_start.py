"""The float network that a run starts from, and what is told of it."""

import sys

import pytest
import torch

from asqcli.errors import InputError, UsageError
from asqcli.recipe.resolve import Request, resolve
from asqcli.run import entry
from asqcli.run.checkpoint import load_checkpoint
from asqcli.run.context import RunContext
from asqcli.run.restore import restore_model
from asqcli.run.start import load_float_model, start_model
from asqcli.train.reporter import Reporter

SOURCE = """
import torch
from torch import nn

class HeadFirst(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.fc = nn.Linear(4, num_classes)
        self.conv, self.bn = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))

def trained(num_classes=10):
    net = HeadFirst(num_classes)
    net.load_state_dict(torch.load("own.pth"))
    return net

def of_ten():
    return trained()

def of_no_fixed_layers(num_classes=10):
    net = HeadFirst(num_classes)
    net.register_parameter(f"own{torch.randint(10**9, ()).item()}", nn.Parameter(torch.ones(1)))
    return net

def all_but_the_head(num_classes=10):
    net = HeadFirst(num_classes)
    kept = {n: t for n, t in torch.load("own.pth").items() if not n.startswith("fc.")}
    net.load_state_dict(kept, strict=False)
    return net
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "started_nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    sys.modules.pop("started_nets", None)


def recipe_for(name, weights, *overrides, **flags):
    flags = {"pretrained": (weights, "--weights"), **flags}
    return resolve(Request(f"started_nets:{name}", None, None, None, flags, ["data.image_size=8", *overrides])).recipe


def saved(path, classes):
    import started_nets

    torch.manual_seed(5)
    net = started_nets.HeadFirst(classes)
    with torch.no_grad():
        net.bn.running_mean.normal_(), net.bn.running_var.uniform_(1, 2)
    torch.save(net.state_dict(), path)
    return net


def test_a_head_that_is_defined_first_is_replaced_for_other_classes():
    net = saved("w.pth", 10)
    start = start_model(recipe_for("HeadFirst", "w.pth"), 2, print)
    assert start.needs_training and start.notes[0].endswith("a new head for 2 (fc.bias, fc.weight)")
    assert torch.equal(start.model.conv.weight, net.conv.weight) and start.model.fc.out_features == 2
    with pytest.raises(InputError, match="not for the 2 classes"):
        load_float_model(recipe_for("HeadFirst", "w.pth"), 2, print)


def test_what_was_taken_of_a_file_is_told():
    net = saved("w.pth", 10)
    other = {name: tensor * 2 for name, tensor in net.state_dict().items()}
    torch.save({"model": other, "model_ema": net.state_dict()}, "both.pth")
    told = []
    model = load_float_model(recipe_for("HeadFirst", "both.pth"), 10, told.append)
    assert torch.equal(model.conv.weight, net.conv.weight) and "`model_ema` are taken" in told[0] and len(told) == 1


def test_weights_of_the_factory_are_kept_as_they_come(tmp_path, write_image_folder):
    net = saved("own.pth", 2)
    images = write_image_folder(tmp_path / "images", {"ant": 8, "bee": 8})
    small = ("train.max_steps=1", "train.batch_size=4", "train.lr=1e-6")
    recipe = recipe_for("trained", "factory", *small, **{"data.name": (str(images), "--data")})
    start = start_model(recipe, 2, print)
    assert not start.needs_training and all(
        torch.equal(t, start.model.state_dict()[n]) for n, t in net.state_dict().items()
    )
    context = RunContext(torch.device("cpu"), Reporter())
    result = entry.start_run(recipe, context, source="test", out="run", force=False, given=None)
    assert result["float_trained"]
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoints" / "last")
    assert checkpoint.recipe.pretrained == "factory" and checkpoint.progress.facts["weights"] == "the factory's own"
    opened = restore_model(checkpoint, source="run", factory="started_nets:trained")
    assert torch.allclose(opened.conv.weight, net.conv.weight, atol=1e-4)


def test_weights_of_the_factory_for_other_classes():
    saved("own.pth", 10)
    told = []
    start = start_model(recipe_for("of_ten", "factory"), 2, told.append)
    assert start.pretrained and start.new_head == "fc"
    assert start.needs_training and "a new head for 2 classes (fc)" in told[0]


def test_a_factory_may_load_all_but_its_head():
    net = saved("own.pth", 10)
    start = start_model(recipe_for("all_but_the_head", "factory"), 2, print)
    assert start.pretrained and start.new_head == "fc" and "a head that starts at random (fc)" in start.notes[0]
    assert torch.equal(start.model.conv.weight, net.conv.weight)


def test_a_factory_that_loads_nothing():
    start = start_model(recipe_for("HeadFirst", "factory"), 2, print)
    assert not start.pretrained and "starts at random, it loads no weights or few" in start.notes[0]
    with pytest.raises(InputError, match="are not for the 2 classes"):
        load_float_model(recipe_for("HeadFirst", "factory"), 2, print)
    assert not start_model(recipe_for("of_no_fixed_layers", "factory"), 2, print).pretrained


def test_weights_of_a_factory_where_there_is_none():
    with pytest.raises(UsageError, match="`resnet20` is not a factory of yours"):
        start_model(
            resolve(Request("resnet20", None, None, None, {"pretrained": ("factory", "")}, [])).recipe, 10, print
        )
    start = start_model(recipe_for("HeadFirst", "auto"), 10, print)
    assert start.needs_training and "if the factory loads its own, say `--weights factory`" in start.notes[0]
