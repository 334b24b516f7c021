"""From training to the engine: codes, accumulators and logits are equal bit for bit, over random small networks."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from asqcli.api import parameter_groups, project_steps, quantize_module
from asqcli.artifact import document as doc
from asqcli.artifact import read_artifact, write_artifact
from asqcli.engine import Session
from asqcli.engine.verify import verify
from asqcli.errors import UnsupportedError
from asqcli.export.network import export_network
from asqcli.export.torch_runner import TorchRunner
from asqcli.nn.precision import forward_in
from tests.engine.networks import USABLE
from tests.export.cases import SETTINGS, sum_of_halves

pytestmark = pytest.mark.slow

SIZE = 9


class Block(nn.Module):
    """A convolution of any kind, batch norm or bias, and something after it."""

    def __init__(self, channels_in: int, channels_out: int, draw) -> None:
        super().__init__()
        groups = draw(st.sampled_from([g for g in (1, 2, channels_in) if channels_in % g == channels_out % g == 0]))
        kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 1), (2, 3)]))
        norm = draw(st.booleans())
        self.conv = nn.Conv2d(
            channels_in,
            channels_out,
            kernel,
            stride=draw(st.sampled_from([1, 1, 2])),
            padding=draw(st.sampled_from([1, (1, 0), 2])),
            dilation=draw(st.sampled_from([1, 1, 2])),
            groups=groups,
            bias=not norm,
        )
        self.norm = nn.BatchNorm2d(channels_out) if norm else nn.Identity()
        self.after = draw(st.sampled_from(list(AFTER)))
        self.residual = draw(st.booleans())

    def forward(self, x):
        y = self.norm(self.conv(x))
        if self.residual:
            y = y + F.relu(y)
        return AFTER[self.after](y)


AFTER = {
    "relu": F.relu,
    "relu6": F.relu6,
    "nothing": lambda x: x,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "leaky": lambda x: F.leaky_relu_(F.gelu(x, approximate="tanh"), 0.25),
    "gate": lambda x: x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1)),
    "concat": lambda x: torch.cat([x, F.silu(x)], dim=1)[:, ::2],
    "max": lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2, 1, ceil_mode=True),
    "average": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "shuffle": lambda x: x.view(x.size(0), 2, x.size(1) // 2, x.size(2), x.size(3)).transpose(1, 2).reshape(x.shape),
    "halves": sum_of_halves,
    "means of channels": lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)),
    "a stack": lambda x: torch.stack([x, F.relu(x), x * 0.5]).sum(dim=0),
    "average beyond": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2, 1, ceil_mode=True),
    "numbers": lambda x: 0.1 + (x + 3) * -0.75,
    "one channel anew": lambda x: torch.cat([x[:, -1].unsqueeze(1) * 0.458, x[:, 1:]], dim=1),
}


class Network(nn.Module):
    """Some blocks, a pool, a linear layer."""

    def __init__(self, draw) -> None:
        super().__init__()
        widths = [3, *draw(st.lists(st.sampled_from([4, 8, 12]), min_size=1, max_size=3))]
        self.blocks = nn.Sequential(*(Block(a, b, draw) for a, b in pairwise(widths)))
        self.windows = draw(st.sampled_from([1, (2, 1)]))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(widths[-1] * (1 if self.windows == 1 else 2), 5)

    def forward(self, x):
        return self.head(self.dropout(torch.flatten(F.adaptive_avg_pool2d(self.blocks(x), self.windows), 1)))


def has_pixels_enough(network: nn.Module, images: torch.Tensor) -> bool:
    try:
        network.eval()(images)
    except RuntimeError as error:
        assert "size" in str(error)
        return False
    return True


def trained(network: nn.Module, images: torch.Tensor, precision: str = "float32", **settings) -> nn.Module:
    """Return `network` quantized and trained for two steps, with settled batch norms of both signs."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network.train()
    for _ in range(3):
        network(images)
    quantize_module(network, [images], start="lsq", **settings)
    optimizer = torch.optim.SGD(parameter_groups(network.train(), weight_decay=1e-4), lr=0.01)
    for _ in range(2):
        with forward_in(precision, images.device):
            F.cross_entropy(network(images), torch.arange(len(images)) % 5).backward()
        optimizer.step()
        optimizer.zero_grad()
        project_steps(network)
    return network.eval()


def exported(network: nn.Module, path, size: int = SIZE):
    """Return the network as read from its file."""
    artifact = export_network(
        network,
        classes=tuple("abcde"),
        preprocessing=doc.Input(image_size=size, resize=size, mean=(0.0,) * 3, std=(1.0,) * 3),
        provenance=doc.Provenance(asqcli="test", model="test"),
    )
    path.write_bytes(write_artifact(artifact))
    return read_artifact(path)


def assert_all_equal(network: nn.Module, artifact, images: torch.Tensor) -> None:
    inputs = images.numpy()
    matmul, specification = (Session(artifact, kernel=kernel) for kernel in ("matmul", "shift-lut"))
    assert (matmul.kernel, specification.kernel) == ("matmul", "shift-lut")
    for other in (TorchRunner(network), lambda x, observe: specification.run(x, observe=observe)):
        result = verify(lambda x, observe: matmul.run(x, observe=observe), other, [inputs])
        assert result.exact, result
        assert result.images == len(inputs) and len(result.layers) >= 2
    whole = matmul.run(inputs)
    assert np.array_equal(whole, np.concatenate([matmul.run(inputs[i : i + 1]) for i in range(len(inputs))]))
    with torch.no_grad():
        bits = network(images).numpy().view(np.int32)
    assert np.array_equal(whole.view(np.int32), bits), "equal as numbers, but not as bits"


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(list(SETTINGS)), st.integers(0, 2**16))
def test_random_networks_are_equal_to_the_bit(tmp_path_factory, data, chosen, seed):
    torch.manual_seed(seed)
    network = Network(data.draw)
    images = torch.randn(6, 3, SIZE, SIZE)
    assume(has_pixels_enough(network, images))
    trained(network, images, **SETTINGS[chosen])
    assert_all_equal(network, exported(network, tmp_path_factory.mktemp("chain") / "net.asq"), images)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("chosen", SETTINGS)
def test_every_scheme_on_one_network(tiny_net, tmp_path, chosen, precision):
    torch.manual_seed(1)
    tiny_net.head = nn.Linear(12, 5)
    images = torch.randn(6, 3, SIZE, SIZE)
    trained(tiny_net, images, precision, **SETTINGS[chosen])
    assert_all_equal(tiny_net, exported(tiny_net, tmp_path / "net.asq"), images)


def test_accumulators_above_the_range_of_float32(tmp_path):
    """8-bit weights and codes at their extremes over 600 channels need doubles in the matrix product."""
    network = nn.Sequential(nn.Conv2d(3, 600, 1), nn.ReLU(), nn.Conv2d(600, 4, 1), nn.Flatten(), nn.Linear(4 * 81, 5))
    with torch.no_grad():
        network[2].weight.copy_(torch.rand_like(network[2].weight) * 0.01 + 1)
    images = torch.randn(4, 3, SIZE, SIZE)
    quantize_module(network, [images], scheme="lsq", bits=8)
    artifact = exported(network.eval(), tmp_path / "net.asq")
    assert max(artifact.largest_sum(n) for n in artifact.document.nodes if n.op == "conv") > 2**24
    assert_all_equal(network, artifact, images)
    for kernel in USABLE:
        session, reference = Session(artifact, kernel=kernel), Session(artifact, kernel="matmul")
        compared = [lambda x, observe, run=s.run: run(x, observe=observe) for s in (session, reference)]
        assert verify(*compared, [images.numpy()]).exact, kernel


def test_a_layer_used_twice_is_stored_once(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

        def forward(self, x):
            x = self.conv(self.conv(self.stem(x).relu()).relu())
            return self.head(x.mean([2, 3]))

    network, images = Twice(), torch.randn(3, 3, SIZE, SIZE)
    quantize_module(network, [images])
    artifact = exported(network.eval(), tmp_path / "net.asq")
    assert [n.name for n in artifact.document.nodes if n.op == "conv"] == ["stem", "conv", "conv"]
    assert sum("conv.codes" in name for name in artifact.tensors) == 1
    assert_all_equal(network, artifact, images)


class Around(nn.Module):
    """A function of a value and a convolution."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.relu = function, nn.ReLU(inplace=True)
        self.stem, self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.function(self, self.stem(x)).mean([2, 3]))


def add_and_read_again(net, x):
    before = x
    x += net.conv(x)
    return net.conv(x + before)


def change_one_half(net, x):
    first, second = x.chunk(2, dim=1)
    second.relu_()
    return net.conv(torch.cat([first, second], dim=1))


def read_a_part_from_before(net, x):
    part = x[:, :2]
    x.relu_()
    return net.conv(torch.cat([part, x[:, 2:]], dim=1))


IN_PLACE = {
    "function": lambda net, x: net.conv(F.relu(x, inplace=True)) + x,
    "module": lambda net, x: net.conv(net.relu(x)) + x,
    "through dropout": lambda net, x: net.conv(F.dropout(x, training=False).relu_()) + x,
    "sum": add_and_read_again,
    "half": change_one_half,
}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (read_a_part_from_before, "a part of a tensor that was changed in place"),
        (lambda net, x: x.clamp(min=net.conv(x)), "`clamp` cannot be exported: its bounds are no constants"),
        (lambda net, x: x.relu() if x.max() > 0 else x, r"`bool` .* looks at the values of a tensor .* at test_chain"),
        (lambda net, x: x.clamp(max=x.abs().mean().item()), r"`item` .* looks at the values"),
        (lambda net, x: torch.from_numpy(x.detach().numpy()), r"`numpy` .* looks at the values"),
        (lambda net, x: x.clamp(max=float(len(x))), r"`clamp` .* counts the images of a batch, .* test_chain.py:\d+"),
        (lambda net, x: x * len(x), r"`mul` .* counts the images of a batch, .* test_chain.py:\d+"),
        (lambda net, x: x + 1e39, "`add` cannot be exported: one of its operands is no finite number"),
        (lambda net, x: x[:, [[0, 1], [2, 3]]].flatten(1, 2), "`getitem` cannot be exported: the engine slices"),
        (lambda net, x: x.relu() if len(x) > 1 else x.clamp(max=6), r"`relu` .* counts .* something else with 1 of"),
        (lambda net, x: x + x.mean(0, keepdim=True), "`mean` cannot be exported"),
        (lambda net, x: torch.cat([x[1:], x[:1]]), "`getitem` cannot be exported"),
        (lambda net, x: F.dropout(x), "it drops values in evaluation too"),
        (lambda net, x: x + torch.zeros_like(x).add_(x), "one of its operands is a constant"),
        (lambda net, x: (x.data.relu_(), x)[1], "`data` cannot be exported"),
        (lambda net, x: x.double().relu().float(), "`double` cannot be exported"),
        (lambda net, x: torch.inference_mode()(F.relu)(x), "it runs in inference mode"),
    ],
)
def test_what_would_be_exported_with_another_meaning_is_refused(function, reason, tmp_path):
    network = Around(function)
    quantize_module(network, [torch.randn(4, 3, SIZE, SIZE)])
    with pytest.raises(UnsupportedError, match=reason):
        exported(network.eval(), tmp_path / "net.asq")


def halves_by_size(net, x):
    channels = x.shape[1]
    return F.avg_pool2d(x, int(float(x.size(2)) // 2)) if channels > 2 else x


PLAIN_NUMBERS = {
    "unpacked sizes": lambda net, x: x.view(*x.shape[:2], -1).view(x.size()),
    "length": lambda net, x: x.reshape(len(x), -1).view_as(x),
    "branch and computed size": halves_by_size,
    "loop": lambda net, x: [x := net.conv(x) for _ in range(x.shape[1] // 2)][-1],
    "keywords": lambda net, x: torch.cat(torch.split(tensor=x, split_size_or_sections=[1, 3], dim=1), dim=1),
    "list that grows": lambda net, x: (parts := [x], y := torch.cat(parts, 1), parts.append(F.relu(y)))[1],
    "forms of others": lambda net, x: x.to(net.conv.weight.dtype).type_as(net.conv.weight),
    "dropout": lambda net, x: F.dropout(x, 0.3, net.training),
}


@pytest.mark.parametrize("function", [*IN_PLACE.values(), *PLAIN_NUMBERS.values()], ids=[*IN_PLACE, *PLAIN_NUMBERS])
def test_changes_in_place_and_plain_numbers_are_exported_with_their_meaning(function, tmp_path):
    torch.manual_seed(0)
    network, images = Around(function), torch.randn(4, 3, SIZE, SIZE)
    quantize_module(network, [images])
    assert_all_equal(network, exported(network.eval(), tmp_path / "net.asq"), images)


def test_defaults_and_further_arguments_of_the_forward(tmp_path):
    class Flags(Around):
        def forward(self, x, *others, features=False, scale=1.0, **more):
            return self.stem(x) if features else super().forward(x)

    network, images = Flags(lambda net, x: net.conv(x)), torch.randn(4, 3, SIZE, SIZE)
    quantize_module(network, [images])
    assert_all_equal(network, exported(network.eval(), tmp_path / "net.asq"), images)


HOOKED = {
    "convolution": lambda net: net.conv.register_forward_hook(lambda layer, args, out: F.relu(out)),
    "input of one": lambda net: net.conv.register_forward_pre_hook(lambda layer, args: (F.relu6(args[0]),)),
    "activation": lambda net: net.relu.register_forward_hook(lambda layer, args, out: out.clamp(max=1)),
    "network": lambda net: net.register_forward_pre_hook(lambda layer, args: (F.avg_pool2d(args[0], 2),)),
}


@pytest.mark.parametrize("chosen", HOOKED)
def test_hooks_are_exported_as_what_they_compute(chosen, tmp_path):
    torch.manual_seed(0)
    network, images = Around(lambda net, x: net.relu(net.conv(x))), torch.randn(4, 3, SIZE, SIZE)
    HOOKED[chosen](network)
    quantize_module(network, [images])
    artifact = exported(network.eval(), tmp_path / "net.asq")
    assert len(artifact.document.nodes) == 7  # one more than without
    assert_all_equal(network, artifact, images)


def test_nodes_are_called_after_their_layer_or_function(tmp_path):
    def function(net, x):
        x = net.relu(x) + F.relu(x)
        x += net.relu(x).relu()
        return x.add(x).add_(x)

    network = Around(function)
    quantize_module(network, [torch.randn(4, 3, SIZE, SIZE)])
    names = [node.name for node in exported(network.eval(), tmp_path / "net.asq").document.nodes]
    assert names[:-3] == ["stem", "relu", "relu_1", "add", "relu_2", "relu_3", "iadd", "add_1", "add_"]
    assert names[-3:] == ["mean", "mean", "head"]


def test_layers_may_be_called_by_keyword(tmp_path):
    class ByKeyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 5)

        def forward(self, x):
            return self.head(input=self.norm(input=self.conv(input=x)).mean([2, 3]))

    network, images = ByKeyword(), torch.randn(3, 3, SIZE, SIZE)
    quantize_module(network, [images])
    assert_all_equal(network, exported(network.eval(), tmp_path / "net.asq"), images)


def test_levels_that_are_no_8_bit_integers_are_refused(tmp_path):
    network, images = Around(lambda net, x: net.conv(x)), torch.randn(4, 3, SIZE, SIZE)
    quantize_module(network, [images], scheme="pot", bits=4, weights={"levels": "printed"})
    with pytest.raises(UnsupportedError, match="`conv` has weights with levels up to 128") as refusal:
        exported(network.eval(), tmp_path / "net.asq")
    assert refusal.value.hint == "train with `levels: codes`"


def test_exporting_twice_gives_the_same_bytes(tiny_net, tmp_path):
    tiny_net.head = nn.Linear(12, 5)
    trained(tiny_net, torch.randn(6, 3, SIZE, SIZE))
    assert write_artifact(exported(tiny_net, tmp_path / "a")) == (tmp_path / "a").read_bytes()
    exported(tiny_net, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
