"""Parameters and multiply-adds: worked by hand, counted a second way, and against torchvision's own figures."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models
from torchvision.ops import DeformConv2d

from asqcli.errors import UnsupportedError, UsageError
from asqcli.models.meta import build_on_meta
from asqcli.models.official import official_weights, usual_image_size
from asqcli.models.registry import build_model, torchvision_classifiers
from asqcli.overhead.count import Network, count_model, count_network

pytestmark = pytest.mark.slow


class Assorted(nn.Module):
    """Every kind of convolution, in every kind of container; 8x8 pixels come in."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.paths = nn.ModuleDict({"grouped": nn.Conv2d(8, 12, 3, padding=1, groups=4, bias=False)})
        self.steps = nn.ModuleList([nn.Conv2d(12, 12, 3, stride=2, padding=1, groups=12), nn.Conv2d(12, 6, (1, 3))])
        self.dilated = nn.Conv2d(6, 6, 2, dilation=2)
        self.shared = nn.Linear(6, 6)
        self.unused = nn.Linear(5, 5)
        self.raw = nn.Parameter(torch.zeros(4, 6))
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = self.paths["grouped"](self.stem(x))  # 12 x 8 x 8
        for step in self.steps:
            x = step(x)  # 12 x 4 x 4, then 6 x 4 x 2
        x = self.dilated(F.pad(x, (0, 1))).mean((2, 3))  # 6 x 2 x 1, then 6
        x = self.shared(self.shared(x).relu())
        return self.head(F.linear(x, self.raw))


BY_HAND = {
    # name: (kind, parameters, calls, multiply-adds)
    "stem.0": ("conv", 8 * 27 + 8, 1, 8 * 64 * 27),
    "paths.grouped": ("conv", 12 * 2 * 9, 1, 12 * 64 * 2 * 9),
    "steps.0": ("depthwise", 12 * 9 + 12, 1, 12 * 16 * 9),
    "steps.1": ("conv", 6 * 12 * 3 + 6, 1, 6 * 8 * 12 * 3),
    "dilated": ("conv", 6 * 6 * 4 + 6, 1, 6 * 2 * 6 * 4),
    "shared": ("linear", 42, 2, 2 * 36),
    "head": ("linear", 50, 1, 40),
}


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_layers_worked_by_hand(device):
    model = Assorted().to(device)
    network = count_network(model, 8)
    assert {layer.name: (layer.kind, layer.parameters, layer.calls, layer.multiply_adds) for layer in network.layers} \
        == BY_HAND  # fmt: skip
    # The product of the raw parameter happens in no layer, but in the network itself.
    assert {o.name: (o.parameters, o.multiply_adds) for o in network.others} == {"": (24, 24), "unused": (30, 0)}
    assert network.unused == ("unused",) and network.refusal is None
    assert (network.batch_norm_channels, network.batch_norm_values) == (8, 8 * 64)
    assert network.multiply_adds == 24 + sum(row[3] for row in BY_HAND.values())
    assert network.parameters == 24 + 30 + 16 + sum(row[1] for row in BY_HAND.values())
    shared = network.layers[5]
    assert (shared.input_values, shared.output_values, shared.in_channels, shared.biases) == (12, 12, 6, 6)
    assert network.layers[1].in_channels == 8 and network.layers[1].output_shape == (12, 8, 8)
    assert [layer.name for layer in network.middle] == list(BY_HAND)[1:-1]
    assert [layer.name for layer in network.ends] == ["stem.0", "head"]


class Padded(nn.Conv2d):
    """Pads by itself, and knows its groups from its input."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, groups=x.shape[1])


class Centred(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_layers_of_own_classes_are_counted_as_those_that_they_derive_from(device):
    norm = type("Norm", (nn.BatchNorm2d,), {})(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Padded(1, 4, 2), norm, nn.SyncBatchNorm(4), nn.Flatten())
    model.extend([nn.Linear(4 * 64, 2), nn.BatchNorm1d(2)]).to(device)
    network = count_network(model, 8)
    depthwise = network.layers[1]
    assert (depthwise.kind, depthwise.in_channels, depthwise.multiply_adds) == ("depthwise", 4, 4 * 64 * 4)
    assert network.refusal is None and network.batch_norm_channels == 10 and network.others == ()
    assert type(model[1]) is Padded and model[2] is norm
    model[0] = Centred(3, 4, 1, device=device)
    refused = count_network(model, 8)
    assert refused.multiply_adds == network.multiply_adds
    assert "layer `0` is a Centred, a Conv2d that makes its weights" in refused.refusal


def test_a_weight_that_two_layers_share_is_counted_once():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model[1].weight = model[0].weight
    network = count_network(model, 8)
    assert [layer.parameters for layer in network.layers] == [84, 0] and network.parameters == 84
    assert [layer.multiply_adds for layer in network.layers] == [36 * 81, 16 * 81]


def products_by_ones(layer: nn.Module, size: int) -> int:
    """Return how many products a layer adds up: with ones for weights and input, each adds 1 to the outputs' sum."""
    nn.init.ones_(layer.weight)
    with torch.no_grad():
        return int(layer.double()(torch.ones(1, layer.in_channels, size, size, dtype=torch.double)).sum())


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [1, (3, 2)])
def test_convolutions_against_sums_of_ones(kind, groups, stride, dilation, kernel):
    layer = kind(6, 12, kernel, stride=stride, dilation=dilation, groups=groups, bias=False)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = count_network(model, 9)
    counted = {c.name: c.multiply_adds for c in (*network.layers, *network.others)}
    assert counted["1"] == products_by_ones(layer, 9)
    assert (network.refusal is None) == (kind is nn.Conv2d)


@pytest.mark.parametrize("name", ["resnet20", "resnext50_32x4d", "mobilenet_v3_small", "vit_b_32", "swin_t"])
def test_whole_networks_against_torchs_flop_counter(name):
    size = usual_image_size(name)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        build_on_meta(name, None).eval()(torch.zeros(1, 3, size, size, device="meta"))
    assert count_model(name, size).multiply_adds * 2 == flops.get_total_flops()


@pytest.mark.parametrize("name", ["resnet20", "squeezenet1_1", "mobilenet_v2"])
def test_networks_with_weights_count_the_same(name):
    assert count_network(build_model(name, None), 64) == count_network(build_on_meta(name, None), 64)


def test_attention_without_a_shortcut():
    """The fused operators of attention in evaluation on the CPU are counted as what they compute."""

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 2, stride=2), nn.Linear(8, 4)
            self.block = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)

        def forward(self, x):
            tokens = self.stem(x).flatten(2).transpose(1, 2)  # 16 tokens of 8
            attended = F.scaled_dot_product_attention(tokens, tokens, tokens)
            return self.head(self.block(tokens + attended).mean(1))

    for device in ("meta", "cpu"):
        network = count_network(Attends().to(device), 8)
        assert "MultiheadAttention" in network.refusal
        counted = {layer.name: layer.multiply_adds for layer in (*network.layers, *network.others)}
        attention, projections = 2 * 16 * 16 * 8, 4 * 16 * 8 * 8
        assert counted["block.self_attn"] == attention + projections
        assert counted[""] == attention
        assert network.multiply_adds == 16 * 8 * 12 + 2 * attention + projections + 2 * 16 * 8 * 16 + 32


def own_parameters(network: Network) -> int:
    """Return the parameters as the layers tell them; torchvision's batch norms have two for each channel."""
    return sum(layer.parameters for layer in (*network.layers, *network.others)) + 2 * network.batch_norm_channels


def test_all_torchvision_classifiers_against_their_metadata():
    """`num_params` to the last one, `_ops` (10^9 multiply-adds, three decimals) to all its digits."""
    with torch.device("meta"):
        with_heads = models.inception_v3(weights=None, init_weights=False)
    # GoogLeNet's metadata leave its auxiliary heads out already, Inception's do not.
    auxiliary = {"inception_v3": sum(p.numel() for p in with_heads.AuxLogits.parameters())}
    wrong = {}
    for name in torchvision_classifiers():
        about = official_weights(name).meta
        network = count_model(name, usual_image_size(name))
        heads = auxiliary.get(name, 0)
        found = network.parameters + heads, round(network.multiply_adds / 1e9, 3), own_parameters(network) + heads
        if found != (about["num_params"], about["_ops"], about["num_params"]):
            wrong[name] = found, about["num_params"], about["_ops"]
    assert not wrong


def test_what_cannot_be_counted_is_named():
    class Deformed(nn.Module):
        def __init__(self):
            super().__init__()
            self.offsets, self.bent = nn.Conv2d(3, 18, 3, padding=1), DeformConv2d(3, 4, 3, padding=1)

        def forward(self, x):
            return self.bent(x, self.offsets(x)).mean((2, 3))

    with pytest.raises(UnsupportedError, match=r"layer `bent` \(DeformConv2d\).* `torchvision::deform_conv2d`"):
        count_network(Deformed(), 8)

    class Bilinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.pair = nn.Conv2d(3, 4, 1), nn.Bilinear(4, 4, 5)

        def forward(self, x):
            x = self.stem(x).mean((2, 3))
            return self.pair(x, x)

    with pytest.raises(UnsupportedError, match=r"layer `pair` \(Bilinear\).* `aten::_trilinear`"):
        count_network(Bilinear(), 8)


def test_networks_that_are_no_classifiers():
    with pytest.raises(UnsupportedError, match=r"returns \(1, 4, 6, 6\), not one row of logits"):
        count_network(nn.Conv2d(3, 4, 3), 8)
    with pytest.raises(UnsupportedError, match="calls no Conv2d or Linear layer"):
        count_network(nn.Flatten(), 8)


def test_an_input_that_is_too_small_names_the_layer_and_a_size_that_works():
    with pytest.raises(UnsupportedError) as failure:
        count_model("alexnet", 32)
    assert failure.value.message == (
        "an input of 32x32 pixels is too small for `alexnet`: "
        "it runs out of pixels in layer `features.12` (MaxPool2d), which gets (1, 256, 1, 1)"
    )
    assert failure.value.hint == "`--input-size 63` and more works"
    count_model("alexnet", 63)
    with pytest.raises(UnsupportedError):
        count_model("alexnet", 62)


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "counted_models.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "built = []\n"
        "class Curious(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)\n"
        "    def forward(self, x):\n"
        "        x = self.conv(x)\n"
        "        return self.head(x.mean((2, 3)) if x.sum() > -1e9 else x.amax((2, 3)))\n"
        "def curious(): return Curious()\n"
        "def checks():\n"
        "    built.append(1)\n"
        "    model = Curious()\n"
        "    assert not model.conv.weight.isnan().any()\n"
        "    return model\n"
        "def flat(): return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 30 * 30, 7))\n"
        "def broken(): raise ValueError('not today')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("counted_models", None)


@pytest.mark.parametrize("factory", ["curious", "checks"])
def test_factories_and_networks_that_look_at_values_get_weights(factories, factory):
    assert count_model(f"counted_models:{factory}", 8).multiply_adds == 36 * 4 * 27 + 8


def test_factories_that_fail(factories):
    with pytest.raises(UnsupportedError, match="raised ValueError: not today"):
        count_model("counted_models:broken", 8)
    with pytest.raises(UsageError, match="no function `curios`"):
        count_model("counted_models:curios", 8)
    with pytest.raises(UnsupportedError, match=r"in layer `2` \(Linear\), which gets \(1, 72\)") as failure:
        count_model("counted_models:flat", 8)
    assert "--input-size N" in failure.value.hint
    assert count_model("counted_models:flat", 32).outputs == 7


class Observed(nn.Module):
    """A network with marks for a profiler, or run in inference mode."""

    def __init__(self, inference=False):
        super().__init__()
        self.conv, self.fc, self.inference = nn.Conv2d(3, 4, 3), nn.Linear(4, 10), inference

    def forward(self, x):
        with torch.inference_mode(self.inference), torch.profiler.record_function("all"):
            return self.fc(self.conv(x).mean((2, 3)))


def test_marks_wrappers_and_inference_mode_change_no_count():
    expected = 6 * 6 * 4 * 27 + 40
    for model in (Observed(), Observed(inference=True), nn.DataParallel(Observed())):
        assert count_network(model.cpu(), 8).multiply_adds == expected
