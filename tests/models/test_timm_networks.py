"""Networks of timm: their names, their weights from a cache, and what happens without either."""

import time
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch

from asqcli.errors import MachineError, UsageError
from asqcli.models import timm_networks
from asqcli.models.meta import ClassifierTraits, build_on_meta, classifier_traits
from asqcli.models.official import (
    fetch_official,
    official_class_names,
    official_input,
    require_official,
    usual_image_size,
)
from asqcli.models.registry import build_model, require_known
from asqcli.models.weights import load_weights
from asqcli.nn.head import find_head
from tests.official_files import put_timm_into_cache

TAGGED = "timm:test_resnet.r160_in1k"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub"


def test_networks_are_built_for_a_number_of_classes_the_same_for_a_seed():
    first, second = (build_model(name, 7, seed=(1,)).eval() for name in ("timm:test_resnet", TAGGED))
    x = torch.randn(2, 3, 64, 64)
    assert first(x).shape == (2, 7) and torch.equal(first(x), second(x))
    assert build_on_meta("timm:test_resnet", None)(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 1000)
    assert build_on_meta("timm:test_vit", 3, image_size=64).patch_embed.grid_size == (4, 4)


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("timm:resnet81", "has no model `resnet81`", "`timm:resnet18`"),
        ("timm:", "has no model ``", "for example `timm:resnet18d`"),
        ("timm:resnet18.a9_in1k", "has no weights `a9_in1k` of `resnet18`", "`timm:resnet18`, `timm:resnet18.a1_in1k`"),
        ("timm:cs3darknet_s.in1k", "has no weights `in1k` of `cs3darknet_s`", "choose `timm:cs3darknet_s`"),
        ("timm:hf-hub:someone/net", "has no model `hf-hub:someone/net`", None),  # nothing is fetched to find that out
        ("timm:local-dir:nets", "has no model `local-dir:nets`", None),
    ],
)
def test_unknown_names(name, text, hint):
    with pytest.raises(UsageError) as failure:
        require_known(name)
    assert text in failure.value.message and (hint is None or hint in failure.value.hint)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(timm_networks, "find_spec", lambda _: None)
    for ask in (require_known, lambda name: build_model(name, 2)):
        with pytest.raises(MachineError, match="needs the package timm") as failure:
            ask("timm:test_resnet")
        assert failure.value.hint == "pip install 'asqcli[timm]'"
    assert official_input("timm:test_resnet", "auto") is None and usual_image_size("timm:test_resnet") == 224


def test_how_pretrained_weights_want_their_images(monkeypatch):
    found = official_input(TAGGED, "official")
    half = [0.5] * 3
    # 160 / 0.95, rounded down as timm does
    assert found.values == {"image_size": 160, "resize": 168, "mean": half, "std": half}
    assert found.note is None  # bilinear
    assert usual_image_size("timm:test_resnet") == 160
    found = official_input("timm:resnet18", "auto")
    assert found.values["mean"] == [0.485, 0.456, 0.406]
    assert found.note == "note: timm:resnet18 resize images with bicubic interpolation, asq with bilinear"
    for name, wanted in ((TAGGED, "none"), (TAGGED, "file.pth"), ("timm:cs3darknet_s", "auto"), ("timm:none", "auto")):
        assert official_input(name, wanted) is None
    odd = {"input_size": (3, 96, 128), "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "border"}
    settings = SimpleNamespace(**{"mean": (0,) * 3, "std": (1,) * 3, "has_weights": True, "num_classes": 2, **odd})
    monkeypatch.setattr(timm_networks, "pretrained_settings", lambda _: settings)
    found = official_input(TAGGED, "auto")
    assert found.values["image_size"] == found.values["resize"] == 96
    assert "of 96x128 pixels, asq square ones; crop by the mode border" in found.note


@pytest.mark.parametrize("classes", [1000, 3])
def test_weights_from_the_cache_are_loaded_as_a_state_dict(hub, classes):
    stored = put_timm_into_cache("test_resnet", hub)
    before = torch.get_rng_state()
    state, title = fetch_official("timm:test_resnet")
    assert title == "timm test_resnet.r160_in1k" and torch.equal(torch.get_rng_state(), before)
    model = build_model("timm:test_resnet", classes)
    report = load_weights(model, state, source=title, head=lambda: find_head(model, torch.zeros(1, 3, 64, 64)))
    assert report.replaced_head == (() if classes == 1000 else ("fc.bias", "fc.weight"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored[name]) == (name not in report.replaced_head)


def test_weights_that_cannot_be_had(hub, monkeypatch):
    with pytest.raises(MachineError, match="not in the cache and ASQ_OFFLINE forbids downloads"):
        fetch_official("timm:test_resnet")
    for name in ("timm:cs3darknet_s", "timm:resnet50_no_such"):
        assert official_input(name, "official") is None
    with pytest.raises(UsageError, match="`timm:cs3darknet_s` has no official weights"):
        require_official("timm:cs3darknet_s")
    with pytest.raises(MachineError, match="no official weights for `timm:cs3darknet_s`"):
        fetch_official("timm:cs3darknet_s")
    put_timm_into_cache("test_resnet", hub)
    next(hub.glob("*/snapshots/*/model.safetensors")).write_bytes(b"torn")
    with pytest.raises(MachineError, match="of `timm:test_resnet` cannot be had: "):
        fetch_official("timm:test_resnet")


def test_a_hub_that_does_not_answer_is_asked_once(hub, monkeypatch):
    asked = []

    def refuse(url, timeout):
        asked.append(url)
        raise ConnectionError("no route")

    monkeypatch.delenv("ASQ_OFFLINE")
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    begin = time.perf_counter()
    with pytest.raises(MachineError, match="cannot be had"):
        fetch_official("timm:test_resnet")
    assert len(asked) == 1 and time.perf_counter() - begin < 30  # the hub's library alone: 47 s
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    put_timm_into_cache("test_resnet", hub)
    assert fetch_official("timm:test_resnet")[0]


def test_weights_without_the_hub_are_looked_for_in_torchs_cache(hub, tmp_path, monkeypatch):
    settings = timm_networks.pretrained_settings("timm:test_resnet")
    settings.hf_hub_id, settings.url = None, "https://example.com/net-0.pth"
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda *_: settings)
    assert not timm_networks.is_cached("timm:test_resnet")
    file = tmp_path / "hub" / "checkpoints" / "net-0.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    assert timm_networks.is_cached("timm:test_resnet")


def test_what_decides_how_a_network_is_trained():
    assert classifier_traits("timm:test_resnet") == ClassifierTraits(True, 32)
    assert classifier_traits("timm:vgg11").norms is False and classifier_traits("timm:none") is None


def test_classes_are_named_where_timm_has_a_list_of_them(monkeypatch):
    names = official_class_names("timm:resnet18")
    assert names is not None and names[0] == "tench, Tinca tinca" and len(set(names)) == 1000
    monkeypatch.setattr(timm_networks, "pretrained_settings", lambda name: SimpleNamespace(num_classes=37))
    assert official_class_names("timm:resnet18") is None
