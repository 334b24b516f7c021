import sys

import pytest
import torch

from asqcli.errors import UnsupportedError
from asqcli.models.meta import ClassifierTraits, build_on_meta, classifier_traits
from asqcli.models.official import usual_image_size
from asqcli.models.registry import build_model


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "regnet_x_400mf", "convnext_tiny"])
def test_networks_without_weights_have_the_same_shapes(name):
    hollow, full = build_on_meta(name, 7), build_model(name, 7)
    shapes = {n: t.shape for n, t in full.state_dict().items()}
    assert {n: t.shape for n, t in hollow.state_dict().items()} == shapes
    assert {t.device.type for t in hollow.state_dict().values()} == {"meta"}
    assert torch.empty(1).device.type == "cpu"  # nothing lasts


def test_networks_for_one_image_size_are_built_for_it():
    assert build_on_meta("vit_b_32", None, image_size=64).encoder.pos_embedding.shape == (1, 5, 768)
    with pytest.raises(UnsupportedError, match="cannot be built for images of 100x100 pixels: AssertionError"):
        build_on_meta("vit_b_32", None, image_size=100)


def test_usual_image_sizes():
    sizes = {"resnet20": 32, "resnet18": 224, "inception_v3": 299, "efficientnet_b7": 600, "my_models:net": 224}
    assert {name: usual_image_size(name) for name in sizes} == sizes


def test_a_factory_chooses_its_own_number_of_classes(tmp_path, monkeypatch):
    (tmp_path / "class_counts.py").write_text(
        "from torch import nn\n"
        "def default(num_classes=7): return nn.Linear(2, num_classes)\n"
        "def required(num_classes): return nn.Linear(2, num_classes)\n"
        "def fixed(): return nn.Linear(2, 5)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    outputs = {f: build_on_meta(f"class_counts:{f}", None).out_features for f in ("default", "required", "fixed")}
    assert outputs == {"default": 7, "required": 1000, "fixed": 5}
    assert build_on_meta("class_counts:default", 3).out_features == 3
    sys.modules.pop("class_counts")


@pytest.mark.parametrize(
    ("name", "norms", "size"),
    [
        ("resnet18", True, 32),
        ("alexnet", False, 64),  # is refused with less
        ("squeezenet1_1", False, 64),  # its last 3x3 convolutions would see single pixels
        ("vgg11", False, 32),
        ("inception_v3", True, 96),
        ("vit_b_16", True, 224),
    ],
)
def test_what_decides_how_a_classifier_is_trained(name, norms, size):
    assert classifier_traits(name) == ClassifierTraits(norms, size)


def test_traits_are_of_torchvisions_classifiers_alone():
    assert classifier_traits("resnet20") is None and classifier_traits("resnet81") is None
