"""What public networks write between their layers: exported, on a native kernel, and equal to the bit."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asqcli.api import export_module, quantize_module
from tests.export.between import CHANNELS, SIZE, Net, assert_exported, refusal

PER_CHANNEL = torch.linspace(-1, 2, CHANNELS).reshape(1, CHANNELS, 1, 1)
OF_PIXELS = torch.linspace(-1, 1, SIZE * SIZE).reshape(SIZE, SIZE)


def in_place(x):
    x = x * 1
    x -= 0.25
    x *= PER_CHANNEL
    x /= 3
    return x


def shuffled(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)


MADE = {
    "hard swish by hand": lambda x: x * F.relu6(x + 3) / 6,
    "scaled sum": lambda x: x + 0.1 * F.relu(x),
    "with a factor": lambda x: torch.add(x, F.relu(x), alpha=0.3) * torch.sub(x, 2, alpha=0.7),
    "with a factor, in place": lambda x: (x * 1).add_(F.relu(x), alpha=0.3).sub_(x, alpha=-0.7),
    "a constant with a value's factor": lambda x: torch.add(PER_CHANNEL, x, alpha=0.3),
    "the other way round": lambda x: torch.rsub(x, F.relu(x)) + torch.rsub(x, 1.0),
    "number first": lambda x: 2 - x,
    "minus": lambda x: -x,
    "difference": lambda x: F.relu(x) - F.sigmoid(x),
    "sum of a list": lambda x: sum([x, F.relu(x), F.silu(x)]),
    "a number for each channel": lambda x: (x - PER_CHANNEL) / (PER_CHANNEL + 1.5) * PER_CHANNEL,
    "one number in a tensor": lambda x: x * torch.tensor(0.3) + torch.tensor([0.7]),
    "in place": in_place,
    "tanh": lambda x: torch.tanh(x) + F.tanh(x * 1e-3).tanh_(),
    "sigmoid in place": lambda x: (x * 2).sigmoid_(),
    "magnitudes": lambda x: x.abs(),
    "threshold": nn.Threshold(0.1, 0.1),
    "squares": lambda x: x.square() - x**2 / 2,
    "a pixel added": lambda x: x + F.adaptive_avg_pool2d(x, 1),
    "a pixel first": lambda x: x.mean((2, 3), keepdim=True) + x,
    "expanded": lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x),
    "permuted": lambda x: shuffled(x).permute(0, 1, 3, 2),
    "swapped": lambda x: x.swapaxes(2, 3),
    "reflection": nn.ReflectionPad2d((1, 2, 3, 0)),
    "replication": lambda x: F.pad(x, (2, 1, 0, 1), mode="replicate"),
    "around": lambda x: F.pad(x, (2, 1, 0, 1), mode="circular"),
}
REFUSED = {
    "pixels of their own": (lambda x: x + OF_PIXELS, r"constant has the shape \(8, 8\)"),
    "division by a value": (lambda x: x / (x * x + 1), "divides by constants only"),
    "rounded": (lambda x: torch.div(x, 2, rounding_mode="floor"), "does not round"),
    "another number put in": (nn.Threshold(0.1, 0.2), "is not its threshold"),
    "third power": (lambda x: x**3, "no power but the second"),
    "with a factor, the other way round": (lambda x: torch.rsub(x, F.relu(x), alpha=0.5), "it has a factor"),
    "the batch": (lambda x: x.permute(1, 0, 2, 3).permute(1, 0, 2, 3), "it moves the batch"),
    "more pixels around than a node has inputs": (
        lambda x: F.pad(F.interpolate(x, scale_factor=32), (130, 130, 0, 0), mode="reflect")[:, :, ::32, ::32],
        r"`pad` .* beyond what the engine takes: inputs: .* at most 256",
    ),
    "in double": (
        lambda x: (x * torch.tensor([0.1], dtype=torch.float64)).float(),
        r"`mul` .* it computes in torch.float64",
    ),
    "inside of vmap": (lambda x: torch.vmap(lambda image: image * 2)(x), "made from"),
    "an infinite slope": (lambda x: F.leaky_relu(x, float("inf")), "beyond what the engine takes: negative_slope: "),
    "a constant of many axes": (lambda x: (x.view(-1, 2, 3, 8, 8) + 1).reshape(x.shape), "a value of the shape"),
}


@pytest.mark.parametrize("chosen", MADE)
def test_exported_and_equal(chosen, tmp_path):
    assert_exported(MADE[chosen], tmp_path / "net.asq")


@pytest.mark.parametrize("chosen", REFUSED)
def test_refused_with_the_reason(chosen, tmp_path):
    refusal(*REFUSED[chosen], tmp_path / "net.asq")


def test_constants_of_an_operation_are_not_those_of_a_layer_of_its_name(tmp_path):
    class Named(Net):
        def __init__(self) -> None:
            super().__init__(lambda x: x)
            self.mul = nn.BatchNorm2d(CHANNELS)

        def forward(self, x):
            return self.head(self.conv(self.mul(self.stem(x) * 3)).mean((2, 3)))

    torch.manual_seed(0)
    net = Named()
    images = torch.randn(8, 3, SIZE, SIZE)
    net.train()(images)
    quantize_module(net.eval(), [images])
    export_module(net.eval(), tmp_path / "net.asq", image_size=SIZE, classes="abcd")
