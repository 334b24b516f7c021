import copy
import warnings

import pytest
import torch
from torch import nn
from torchvision import models

from asqcli.errors import InputError, UnsupportedError
from asqcli.models.registry import build_model
from asqcli.models.state import load_state, refuse_unsaveable, snapshot, versions_in
from asqcli.models.stored.layout import read_weights
from asqcli.models.weights import load_weights
from asqcli.nn.calibration import calibrate
from asqcli.nn.prepare import quant_layers
from asqcli.nn.survey import survey
from asqcli.recipe.layers import resolve_layers
from asqcli.recipe.resolve import Request, resolve
from asqcli.run.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from asqcli.run.restore import restore_model
from asqcli.run.teacher import load_teacher, save_teacher
from asqcli.train.progress import Progress
from asqcli.train.step_hooks import WeightAverage

# The smallest of every family of torchvision's that asq takes; AlexNet and VGG are left out, whose hundred million
# weights in plain layers take half a minute.
SMALLEST = [
    "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5",
    "squeezenet1_1",
]  # fmt: skip
FLOAT = ("weights.quantizer=float", "activations.quantizer=float")
FACTS = {"weights": "none", "float_top1": 1.0, "calibrated_top1": 1.0}


def recipe_for(name, *overrides):
    return resolve(Request(name, None, None, None, {}, list(overrides))).recipe


def small(name):
    """The network with ten classes, without the initialisation of a minute that two of them have."""
    if name not in ("googlenet", "inception_v3"):
        return build_model(name, 10)
    return models.get_model(name, weights=None, num_classes=10, aux_logits=False, init_weights=False)


def through_a_checkpoint(path, model, recipe, specs=()):
    progress = Progress("qat" if specs else "float", facts=FACTS if specs else {"weights": "none"})
    classes = tuple("abcdefghij")
    save_checkpoint(path, Checkpoint(recipe, progress, list(specs), classes, model.state_dict(), {}))
    return load_checkpoint(path)


def assert_same(a, b):
    assert a.keys() == b.keys() and versions_in(a) == versions_in(b)
    for name, value in a.items():
        assert torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name], name


@pytest.mark.parametrize("name", SMALLEST)
def test_every_family_goes_through_a_checkpoint(tmp_path, monkeypatch, name):
    monkeypatch.setattr("asqcli.run.build.build_model", lambda *_, **__: small(name))
    saved = small(name)
    checkpoint = through_a_checkpoint(tmp_path / "last", saved, recipe_for(name, *FLOAT))
    assert_same(checkpoint.model, saved.state_dict())
    assert_same(restore_model(checkpoint, source="r").state_dict(), saved.state_dict())


def first_version(name="mnasnet0_75"):
    """torchvision's MNASNet as it was before its stem followed alpha; its files still load."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = models.get_model(name, weights=None, num_classes=10)
        state = copy.deepcopy(model.state_dict())
        for local in state._metadata.values():
            if local.get("version") == 2:
                local["version"] = 1 if local is state._metadata[""] else 2
        for key in [k for k in state if k.startswith(tuple(f"layers.{n}." for n in range(9)))]:
            del state[key]
        model.load_state_dict(state, strict=False)
    assert model._version == 1 and model.layers[0].out_channels == 32
    return model


@pytest.mark.filterwarnings("ignore:A new version of MNASNet")
def test_a_mnasnet_of_version_1_is_kept_with_the_layers_of_its_version(tmp_path):
    old, images = first_version(), torch.randn(2, 3, 32, 32)
    torch.save(old.state_dict(), tmp_path / "old.pth")
    model = build_model("mnasnet0_75", 10)
    load_weights(model, read_weights(tmp_path / "old.pth", model).state, source="old.pth")
    assert torch.equal(model.eval()(images), old.eval()(images))
    recipe = recipe_for("mnasnet0_75")
    specs = resolve_layers(recipe, survey(model, images[:1]).layers, source="test")
    specs = calibrate(model, specs, [images], start="lsq")
    average, own = WeightAverage(model, 0.5), snapshot(model)
    layers = [layer for _, layer in quant_layers(model)]
    load_state(model, average.state())
    load_state(model, own)
    assert [layer for _, layer in quant_layers(model)] == layers  # the same ones, which an optimizer knows
    checkpoint = through_a_checkpoint(tmp_path / "last", model, recipe, specs)
    again = restore_model(checkpoint, source="r").eval()
    assert torch.equal(again(images), model.eval()(images))


def test_a_version_that_a_network_does_not_know(tmp_path):
    model = build_model("mnasnet0_5", 10)
    state = model.state_dict()
    state._metadata[""]["version"] = 7
    torch.save(state, tmp_path / "new.pth")
    with pytest.raises(InputError, match=r"do not fit the network: ValueError: version .* at mnasnet.py"):
        load_weights(model, read_weights(tmp_path / "new.pth", model).state, source="x")


class Counting(nn.Module):
    """Has extra state that is in JSON, and some that is a tensor."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, num_classes, 1), Scale()
        self.seen = {"steps": 0, "names": []}

    def get_extra_state(self):
        return self.seen

    def set_extra_state(self, state):
        self.seen = state

    def forward(self, x):
        return self.scale(self.conv(x)).mean((2, 3))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.ones(1)

    def get_extra_state(self):
        return self.factor

    def set_extra_state(self, state):
        self.factor = state

    def forward(self, x):
        return x * self.factor.item()


def test_extra_state_survives_checkpoint_average_and_teacher(tmp_path, monkeypatch):
    model = Counting()
    model.seen, model.scale.factor = {"steps": 3, "names": ["a", None, 1.5]}, torch.tensor([2.0])
    refuse_unsaveable(model)
    average = WeightAverage(model, 0.5)
    average.after_step(model)
    load_state(model, average.state())
    assert model.seen["steps"] == 3 and model.scale.factor == 2
    monkeypatch.setattr("asqcli.run.build.build_model", lambda *_, **__: Counting())
    recipe = recipe_for("resnet20", *FLOAT)
    restored = restore_model(through_a_checkpoint(tmp_path / "last", model, recipe), source="r")
    save_teacher(tmp_path / "teacher", model, None)
    load_teacher(tmp_path / "teacher", teacher := Counting())
    for other in (restored, teacher):
        assert other.seen == model.seen and other.scale.factor == 2
    torch.save(model.state_dict(), tmp_path / "w.pth")
    load_weights(other := Counting(), read_weights(tmp_path / "w.pth", model).state, source="w.pth")
    assert other.seen == model.seen


@pytest.mark.parametrize("state", [(1, 2), {1: 2}, {"a": object()}, b"x", {"a": float("nan")}, [{"a": (1,)}]])
def test_extra_state_that_no_file_can_hold_is_refused(state):
    model = nn.Sequential(Counting())
    model[0].seen = state
    with pytest.raises(UnsupportedError, match=f"extra state of layer `0` is a {type(state).__name__}"):
        refuse_unsaveable(model)


@pytest.mark.parametrize(
    ("buffer", "reason"),
    [
        (torch.ones(2, device="meta"), "has a shape but no values"),
        (torch.eye(2).to_sparse(), "sparse_coo"),
        (torch.ones(2, dtype=torch.complex128), "torch.complex128"),
    ],
)
def test_tensors_that_no_file_can_hold_are_refused(buffer, reason):
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    model[0].register_buffer("odd", buffer)
    with pytest.raises(UnsupportedError, match=f"`0.odd` in the network's state .*{reason}"):
        refuse_unsaveable(model)


def test_checkpoints_without_versions_still_open(tmp_path):
    saved = build_model("mnasnet0_5", 10)
    checkpoint = Checkpoint(
        recipe_for("mnasnet0_5", *FLOAT),
        Progress("float", facts={"weights": "none"}),
        [],
        tuple("abcdefghij"),
        dict(saved.state_dict()),
        {},
    )
    save_checkpoint(tmp_path / "last", checkpoint)
    assert_same(restore_model(load_checkpoint(tmp_path / "last"), source="r").state_dict(), saved.state_dict())
