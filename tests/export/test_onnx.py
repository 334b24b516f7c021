"""The ONNX file in onnxruntime answers as the engine does, over schemes, networks and every kind of node."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asqcli.api import quantize_module
from asqcli.artifact import document as doc
from asqcli.artifact.document import quantized_nodes
from asqcli.engine import Session
from asqcli.errors import UnsupportedError
from asqcli.export.network import export_network
from asqcli.export.onnx import model as own
from asqcli.export.onnx import write_onnx
from asqcli.models.registry import build_model
from tests.export.cases import SETTINGS, sum_of_halves

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.onnx

SIZE = 11
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL")

# A mean, a product of an adapter or an exp in double may differ in its last bits, which now and then rounds to the
# neighbouring float32; and an optimizer may join a scale and a bias into one rounding. That reaches the logits as a few
# parts in 10^7. A moved code, which no tolerance would cover, has a chance of about one in 10^8 for each number.
TOLERANCE = 1e-6


class Between(nn.Module):
    """A function between two convolutions with batch norm, and a linear layer on all that comes out."""

    def __init__(self, function, conv: dict | None = None) -> None:
        super().__init__()
        self.function = function
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        with torch.no_grad():
            channels = function(torch.zeros(1, 8, SIZE, SIZE)).shape[1]
        self.conv = nn.Conv2d(channels, 8, **{"kernel_size": 1, **(conv or {})})
        self.features = nn.Flatten()
        self.head = nn.LazyLinear(5)

    def forward(self, x):
        return self.head(self.features(self.conv(self.function(self.norm(self.stem(x))))))


EXACT = {
    "relu": F.relu,
    "relu6": F.relu6,
    "below": lambda x: x.clamp(max=0.5),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "leaky relu": lambda x: F.leaky_relu(x, 0.1),
    "prelu": lambda x: F.prelu(x, torch.linspace(-0.5, 1, 8)),
    "prelu, one slope": nn.PReLU(),
    "residual": lambda x: F.relu(x + F.relu(x)),
    "product": lambda x: x * F.relu(x),
    "halves": sum_of_halves,
    "numbers": lambda x: 0.1 + x * -0.75,
    "one channel": lambda x: torch.cat([x[:, -1].unsqueeze(1) * 2, x[:, 1:]], dim=1),
    "every second": lambda x: x[:, ::2, 1:, :-1:3],
    "shuffle": lambda x: x.view(x.size(0), 2, 4, SIZE, SIZE).transpose(1, 2).reshape(x.size(0), 8, SIZE, SIZE),
    "pad": lambda x: F.pad(x, (1, 0, 2, 3)),
    "max": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max of zeros around": lambda x: F.max_pool2d(F.pad(x, (1, 0, 1, 2)), 2),
    "max, ceil_mode": lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    "a plane for all channels": lambda x: x * x[:, :1],
    "larger of two": lambda x: torch.maximum(x, -x),
    "mean over channels": lambda x: x.mean(1, keepdim=True),
    "largest of a side": lambda x: x.amax(3, keepdim=True),
    "sum of a stack": lambda x: torch.stack([x, F.relu(x)]).sum(0),
    "max, dilation": lambda x: F.max_pool2d(x, (2, 3), (1, 2), (1, 0), dilation=2),
    "max, wide border": lambda x: F.max_pool2d(x, 3, 5, 1, dilation=4, ceil_mode=True),
    "average, some pixels left": lambda x: F.avg_pool2d(x, 4),
    "average, one window of many pixels": lambda x: F.avg_pool2d(x, 9),
    "average, overlapping": lambda x: F.avg_pool2d(x, (3, 2), 1, 1),
    "average, without the border": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "adaptive, uneven windows": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive, more windows than pixels": lambda x: F.adaptive_avg_pool2d(x, (13, SIZE)),
}
ALMOST = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": lambda x: F.silu(x * x),
    "gelu": F.gelu,
    "gelu by tanh": nn.GELU(approximate="tanh"),
    "gate": lambda x: x * torch.sigmoid(x.mean([2, 3], keepdim=True)),
}
CONVOLUTIONS = {
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "groups": {"kernel_size": 3, "groups": 2, "bias": False},
    "depthwise": {"kernel_size": (3, 2), "groups": 8, "padding": (2, 1), "stride": (1, 2)},
    "dilation": {"kernel_size": 3, "dilation": 2, "padding": 3},
    "uneven border": {"kernel_size": (2, 4), "padding": "same"},
}


def exported(network: nn.Module, images: torch.Tensor, **settings):
    """Return the artifact of `network`, quantized."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network.train()
    for _ in range(3):
        network(images)
    quantize_module(network.eval(), [images], **{"start": "lsq", **settings})
    for name, parameter in network.named_parameters():
        if "adapter" in name:  # which starts with beta at 1
            nn.init.normal_(parameter, std=0.3)
    size = images.shape[-1]
    return export_network(
        network,
        classes=tuple(str(n) for n in range(network(images).shape[1])),
        preprocessing=doc.Input(image_size=size, resize=size, mean=(0.5,) * 3, std=(0.25,) * 3),
        provenance=doc.Provenance(asqcli="test", model="test"),
    )


def run(content: bytes, images: np.ndarray, level: str, *outputs: str) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(list(outputs) or None, {"image": images})


def assert_answers_as_the_engine(artifact, images: torch.Tensor, *, exact: bool) -> bytes:
    """Compare logits, all images at once and one alone; `exact`: to the bit, where no optimizer changes the graph."""
    content, inputs = write_onnx(artifact), images.numpy()
    for level in LEVELS:
        for batch in (inputs, inputs[:1]):
            expected = Session(artifact).run(batch)
            assert np.ptp(expected) > 0
            (logits,) = run(content, batch, level)
            assert logits.dtype == np.float32 and logits.shape == expected.shape
            assert np.array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
            assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()
            if exact and level == "ORT_DISABLE_ALL":
                assert np.array_equal(logits, expected)
    return content


@pytest.mark.parametrize("chosen", SETTINGS)
def test_every_scheme(tiny_net, chosen):
    torch.manual_seed(0)
    images = torch.randn(3, 3, SIZE, SIZE)
    artifact = exported(tiny_net, images, **SETTINGS[chosen])
    betas = [node.activations.adapter is not None for node in quantized_nodes(artifact.document)]
    assert any(betas) == (chosen in ("post4", "post3", "asq2", "asq8", "as printed", "paper's adapter"))
    assert_answers_as_the_engine(artifact, images, exact=False)


@pytest.mark.parametrize("name", [*EXACT, *ALMOST])
def test_every_kind_of_node(name):
    torch.manual_seed(0)
    images = torch.randn(3, 3, SIZE, SIZE)
    network = Between({**EXACT, **ALMOST}[name])
    artifact = exported(network, images, scheme="lsq", bits=4)
    assert_answers_as_the_engine(artifact, images, exact=name in EXACT)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("signed", [False, True])
def test_every_kind_of_convolution(name, signed):
    torch.manual_seed(0)
    images = torch.randn(3, 3, SIZE, SIZE)
    network = Between(F.hardtanh if signed else F.relu, CONVOLUTIONS[name])
    artifact = exported(network, images, scheme="post", bits=4)
    assert quantized_nodes(artifact.document)[1].activations.qmin == (-8 if signed else 0)
    assert_answers_as_the_engine(artifact, images, exact=False)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_whole_networks(name):
    torch.manual_seed(0)
    images = torch.randn(3, 3, 32, 32)
    artifact = exported(build_model(name, num_classes=7), images, scheme="post", bits=4)
    assert_answers_as_the_engine(artifact, images, exact=False)


def test_codes_and_accumulators_can_be_read_by_name(tiny_net):
    torch.manual_seed(0)
    images = torch.randn(3, 3, SIZE, SIZE)
    artifact = exported(tiny_net, images)
    model = onnx.load_from_string(write_onnx(artifact))
    seen = {}

    def observe(name, codes, accumulators):
        seen[f"{name}/codes"], seen[f"{name}/accumulator"] = codes, accumulators

    Session(artifact).run(images.numpy(), observe=observe)
    assert len(seen) == 10
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in seen)
    values = run(model.SerializeToString(), images.numpy(), "ORT_DISABLE_ALL", *seen)
    qmin = {node.name: node.activations.qmin for node in quantized_nodes(artifact.document)}
    assert min(qmin.values()) < 0
    for (name, expected), value in zip(seen.items(), values, strict=True):
        layer, kind = name.rsplit("/", 1)
        assert value.dtype == (np.uint8 if kind == "codes" else np.int32)
        assert np.array_equal(value.astype(int) + (qmin[layer] if kind == "codes" else 0), expected)


def test_operands_are_unsigned(tiny_net):
    """Signed weights are unknown to the ConvInteger of older versions, and saturate on processors without VNNI."""
    artifact = exported(tiny_net, torch.randn(3, 3, SIZE, SIZE), start="mse")
    model = onnx.load_from_string(write_onnx(artifact))
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
    products = {n.name.split("/")[0]: n for n in model.graph.node if n.op_type in ("ConvInteger", "MatMulInteger")}
    for node in quantized_nodes(artifact.document):
        weight, zero_point, weight_zero_point = (constants[name] for name in products[node.name].input[1:])
        assert weight.dtype == zero_point.dtype == weight_zero_point.dtype == np.uint8
        levels = artifact.levels(node.weights)
        assert np.array_equal(weight.astype(int) - weight_zero_point, levels if levels.ndim == 4 else levels.T)
        assert zero_point == -node.activations.qmin
    assert len(products) == 5


def test_linear_layers_with_adapters():
    torch.manual_seed(0)
    images = torch.randn(3, 3, SIZE, SIZE)
    network = nn.Sequential(nn.Conv2d(3, 12, 5, stride=3), nn.Flatten(), nn.ReLU(), nn.Linear(108, 20), nn.ReLU())
    network.extend([nn.Linear(20, 6), nn.Linear(6, 5)])
    artifact = exported(network, images)
    adapters = [node.activations.adapter for node in quantized_nodes(artifact.document)]
    assert [a and len(a.layers) for a in adapters] == [None, 2, 2, None]
    assert_answers_as_the_engine(artifact, images, exact=False)


def test_a_layer_that_runs_twice_is_stored_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

        def forward(self, x):
            x = self.conv(self.conv(self.stem(x).relu()).relu())
            return self.head(x.mean([2, 3]))

    torch.manual_seed(0)
    images = torch.randn(3, 3, SIZE, SIZE)
    content = assert_answers_as_the_engine(exported(Twice(), images), images, exact=False)
    names = [c.name for c in onnx.load_from_string(content).graph.initializer]
    assert "conv.weight" in names and "conv.weight_2" not in names


def test_layers_may_have_the_names_of_the_graphs_own_values():
    network = nn.Sequential()
    for name, layer in (("image", nn.Conv2d(3, 4, 3)), ("logits", nn.Conv2d(4, 2, 3)), ("flat", nn.Flatten())):
        network.add_module(name, layer)
    torch.manual_seed(0)
    images = torch.randn(3, 3, 6, 6)
    assert_answers_as_the_engine(exported(network, images), images, exact=False)


def test_the_file_says_what_it_is(tiny_net):
    artifact = exported(tiny_net, torch.randn(3, 3, SIZE, SIZE), scheme="post", bits=3)
    content = write_onnx(artifact)
    assert content == write_onnx(artifact)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (7, [("", 13)])
    about = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert about["asq_format"] == 1 and about["asq_classes"] == [str(n) for n in range(10)]
    assert about["asq_input"] == {"image_size": SIZE, "resize": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3}
    assert about["asq_provenance"]["model"] == "test"
    layers = {layer["name"]: layer for layer in about["asq_layers"]}
    assert list(layers) == ["stem", "depthwise", "pointwise", "linear_bottleneck", "head"]
    assert [layer["weight_bits"] for layer in layers.values()] == [8, 3, 3, 3, 8]
    assert [layer["activation_bits"] for layer in layers.values()] == [8, 3, 3, 3, 8]
    assert layers["stem"]["activation_range"] == [-128, 127] and layers["depthwise"]["activation_range"] == [0, 7]
    assert [layer["adapter"] for layer in layers.values()] == [False, True, True, True, False]
    assert {n.name.split("/")[0] for n in model.graph.node} >= {*layers, "bn", "bn2"}


def test_what_onnx_cannot_hold_is_refused(tiny_net, monkeypatch):
    artifact = exported(tiny_net, torch.randn(3, 3, SIZE, SIZE))
    monkeypatch.setattr(own, "LARGEST_MODEL", 1000)
    with pytest.raises(UnsupportedError, match=r"bytes in ONNX, more than 1,000"):
        write_onnx(artifact)
