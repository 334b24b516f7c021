"""torchvision's own weights: those of every classifier, against the network that torchvision makes of them."""

import warnings

import pytest
import torch
from torch import nn
from torchvision import models

from asqcli.errors import InputError, MachineError
from asqcli.models.meta import EmptyOnMeta, build_on_meta
from asqcli.models.official import (
    as_official,
    fetch_official,
    official_class_names,
    official_weights,
    official_weights_meant,
    usual_image_size,
)
from asqcli.models.registry import build_model, torchvision_classifiers
from asqcli.models.renames import AUXILIARY_HEADS
from asqcli.models.state import EXTRA, is_extra, load_state, versions_in, with_versions
from asqcli.models.weights import fit_weights
from asqcli.nn.head import find_head
from tests.official_files import as_published


def made_by_torchvision(monkeypatch, name, weights):
    """(the network that its builder makes with official weights, the state that it looks for in their file)"""
    wanted = {}

    def load(model, state):
        own = model.state_dict()
        zeros = {key: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for key, tensor in own.items()}
        wanted["state"] = with_versions(zeros, versions_in(own))  # a number for each tensor, whatever its shape

    with monkeypatch.context() as patch:
        patch.setattr(type(weights), "get_state_dict", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", load)
        return get_model(name, weights), wanted["state"]


def get_model(name, weights):
    with warnings.catch_warnings(), EmptyOnMeta():
        warnings.simplefilter("ignore")  # copying to the meta device does nothing
        return models.get_model(name, weights=weights)


def shapes_of(state):
    return {key: tuple(value.shape) for key, value in state.items() if not is_extra(key)}


@pytest.mark.parametrize("name", torchvision_classifiers())
def test_official_weights_make_the_network_that_torchvision_makes_of_them(monkeypatch, name):
    weights = official_weights(name)
    theirs, state = made_by_torchvision(monkeypatch, name, weights)
    file = as_published(state)
    if file.keys() != state.keys():
        with monkeypatch.context() as patch:
            patch.setattr(type(weights), "get_state_dict", lambda *_, **__: dict(file))
            get_model(name, weights)  # which takes such a file
    wanted = {k: s for k, s in shapes_of(theirs.state_dict()).items() if k.partition(".")[0] not in AUXILIARY_HEADS}
    size = usual_image_size(name)
    ours, image = build_on_meta(name, 7, image_size=size), torch.empty(1, 3, size, size, device="meta")
    state, report = fit_weights(ours, as_official(name, file), source=name, head=lambda: find_head(ours, image))
    own, head = shapes_of(ours.state_dict()), report.replaced_head
    assert own.keys() == wanted.keys()
    assert {k for k in own if own[k] != wanted[k]} == set(head) and {own[k][0] for k in head} == {7}
    assert len({k.rpartition(".")[0] for k in head}) == 1
    counters = {k for k in own if k.endswith("num_batches_tracked")}
    assert own.keys() - counters - {*head} <= state.keys() and state.keys() - {EXTRA} <= own.keys()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_state(ours, state, strict=False)
    assert getattr(ours, "transform_input", None) == getattr(theirs, "transform_input", None)
    assert getattr(ours, "aux_logits", False) is False
    if name in ("googlenet", "inception_v3"):
        assert ours.transform_input and set(report.left_out) == {k.partition(".")[0] for k in file} & {*AUXILIARY_HEADS}
    else:
        assert not report.left_out


def test_old_names_are_taken_only_for_what_the_network_lacks():
    state = build_on_meta("densenet121", None).state_dict()
    both = {**state, "features.denseblock1.denselayer1.norm.1.weight": torch.zeros(64)}
    with pytest.raises(InputError, match=r"unexpected \(1\):\n    features.denseblock1.denselayer1.norm.1.weight"):
        fit_weights(build_on_meta("densenet121", None), both, source="x")
    other = {**build_on_meta("resnet18", None).state_dict(), "AuxLogits.fc.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"unexpected \(1\):\n    AuxLogits.fc.weight"):
        fit_weights(build_on_meta("resnet18", None), other, source="x")


@pytest.mark.parametrize("said", ["yes", {"transform_input": 1}, {}, {"transform_input": True, "more": 0}])
def test_extra_state_of_a_stranger(said):
    with pytest.raises(ValueError, match="does not say whether it has `transform_input`"):
        build_on_meta("googlenet", None).set_extra_state(said)


def test_a_file_by_its_official_name_is_taken_for_it():
    second = official_weights_meant("resnet50", "some/where/resnet50-11ad3fa6.pth")
    assert second.name == "IMAGENET1K_V2" and official_weights_meant("resnet50", "auto").name == "IMAGENET1K_V1"
    assert official_weights_meant("resnet18", "resnet50-11ad3fa6.pth") is None
    assert official_weights_meant("resnet20", "auto") is None and official_weights_meant("a:b", "official") is None


def test_official_weights_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MachineError, match="ASQ_OFFLINE"):
        fetch_official("resnet18")
    with pytest.raises(MachineError, match="no official weights"):
        fetch_official("resnet20")


def test_official_weights_from_the_cache(monkeypatch, tmp_path):
    """A file of the right name in torchvision's cache is used."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(build_model("resnet18", 1000).state_dict(), cache / "resnet18-f37072fd.pth")
    state, name = fetch_official("resnet18")
    assert "IMAGENET1K_V1" in name and state["fc.weight"].shape == (1000, 512)
    torch.save([1, 2], cache / "resnet18-f37072fd.pth")
    with pytest.raises(MachineError, match="no state dict"):
        fetch_official("resnet18")


def test_official_weights_name_their_classes():
    names = official_class_names("resnet18")
    assert names is not None and names[0] == "tench" and len(set(names)) == 1000
    assert official_class_names("resnet20") is None and official_class_names("net:factory") is None
