import sys

import pytest
import torch

from asqcli.errors import UnsupportedError, UsageError
from asqcli.models.registry import build_model, torchvision_classifiers


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet20", 269_722), ("resnet56", 853_018), ("resnet110", 1_727_962)]
)
def test_cifar_family_has_the_published_sizes(name, parameters):
    model = build_model(name, 10)
    trained = sum(p.numel() for p in model.parameters())
    assert trained == parameters
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_torchvision_classifiers_are_known_by_name():
    assert {"resnet18", "mobilenet_v2", "vgg16", "densenet121"} <= set(torchvision_classifiers())
    model = build_model("resnet18", 7).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mnasnet0_5", "resnet18"])
def test_heads_start_with_logits_no_larger_than_their_inputs(name):
    *_, head = (m for m in build_model(name, 10, seed=(0,)).modules() if isinstance(m, torch.nn.Linear))
    inputs = torch.randn(256, head.in_features, generator=torch.Generator().manual_seed(0))
    assert head(inputs).std() < 1  # 6.5 and 11 as torchvision draws the first two for ten classes


def test_unknown_names_get_the_nearest_known_one():
    with pytest.raises(UsageError) as failure:
        build_model("resnet81", 10)
    assert "`resnet18`" in failure.value.hint


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(
        "from torch import nn\n"
        "def tiny(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, num_classes))\n"
        "def fixed(): return nn.Conv2d(3, 4, 3)\n"
        "def broken(): raise RuntimeError('no luck today')\n"
        "def wrong(): return 42\n"
    )
    (tmp_path / "broken_module.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("own_models", "broken_module"):
        sys.modules.pop(name, None)


def test_factories_are_found_in_the_current_folder(factories):
    assert build_model("own_models:tiny", 5)(torch.zeros(1, 3, 8, 8)).shape == (1, 5)
    build_model("own_models:fixed", 5)


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("nowhere:tiny", UsageError, "no module `nowhere`"),
        ("own_models:tny", UsageError, "no function `tny`"),
        ("own_models:broken", UnsupportedError, "RuntimeError: no luck today"),
        ("own_models:wrong", UnsupportedError, "returned int"),
        ("broken_module:tiny", UnsupportedError, "a_package_that_is_not_there"),
    ],
)
def test_factories_that_fail(factories, name, error, text):
    with pytest.raises(error, match=text):
        build_model(name, 5)
