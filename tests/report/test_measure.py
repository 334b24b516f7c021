"""What is measured of a network, beside the same in NumPy or by another way through PyTorch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from asqcli.models.cifar_resnet import CifarResNet
from asqcli.nn.calibration import calibrate
from asqcli.nn.modes import evaluating
from asqcli.nn.observed import inputs_seen, outputs_kept, quantizers_off
from asqcli.nn.prepare import quant_layers
from asqcli.quant.spec import (
    ApotWeights,
    AsqActivations,
    LayerSpec,
    LsqActivations,
    OffsetActivations,
    PactActivations,
    PostWeights,
    UniformWeights,
)
from asqcli.report.measure.inputs import InputFigures, layer_input
from asqcli.report.measure.outputs import OutputFigures, points
from asqcli.report.measure.spread import rounding_of, spread_of
from asqcli.report.measure.weights import level_uses, weight_error

KINDS = {"stem": "conv", "depthwise": "depthwise", "pointwise": "conv", "linear_bottleneck": "conv", "head": "linear"}
WEIGHTS = {
    "post": PostWeights(bits=3),
    "lsq": UniformWeights(bits=2),
    "apot": ApotWeights(bits=4, normalize=True, per="tensor"),
}
INPUTS = {
    "asq": AsqActivations(bits=3),
    "eq6": AsqActivations(bits=3, dequantize_by="step_size"),
    "lsq": LsqActivations(bits=2),
    "pact": PactActivations(bits=3),
    "lsq+": OffsetActivations(bits=3),
}


def quantized(net, images, weights="post", inputs="asq"):
    specs = [LayerSpec(name=name, kind=kind, weights=WEIGHTS[weights], activations=INPUTS[inputs])
             for name, kind in KINDS.items()]  # fmt: skip
    calibrate(net, specs, [images], start="mse")
    with torch.no_grad():
        for _, layer in quant_layers(net):
            if layer.activation_quantizer.adapter is not None:  # a beta that is not 1
                layer.activation_quantizer.adapter.linears[-1].weight.normal_(std=0.5)
    return net.eval()


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(6, 3, 8, 8)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_and_their_levels(tiny_net, images, weights):
    net = quantized(tiny_net, images, weights)
    layers = dict(quant_layers(net))
    spec = WEIGHTS[weights]
    table = np.unique(np.array(spec.level_table))
    counts, exact_parts = np.zeros(len(table)), []
    for layer in layers.values():
        w = layer.weight.detach().double().numpy()
        if weights == "apot":
            w = (w - w.mean()) / w.std(ddof=1)
        quantizer = layer.weight_quantizer
        [parameter] = [p.detach().double().numpy() for p in quantizer.parameters()]
        scale = parameter / table.max() if weights != "lsq" else parameter
        x = (w.reshape(len(w), -1) / scale[:, None]) if len(scale) > 1 else w.reshape(len(w), -1) / scale
        nearest = np.abs(x[..., None] - table).argmin(axis=-1)
        counts += np.bincount(nearest.ravel(), minlength=len(table))
        exact_parts.append(x.ravel() / (1 if weights == "lsq" else table.max()))
        wrong = np.linalg.norm((table[nearest] - x) * scale.reshape(-1, 1)) / np.linalg.norm(x * scale.reshape(-1, 1))
        assert weight_error(layer) == pytest.approx(wrong, rel=1e-4)
    together, alone = level_uses(layers.items(), ["stem"])
    assert alone.layers == ["stem"] and together.layers == list(KINDS)
    assert np.allclose(together.rounding.shares, counts / counts.sum(), atol=2 / counts.sum())  # ties
    shares, _ = np.histogram(np.concatenate(exact_parts), together.rounding.before.edges)
    assert np.allclose(np.array(together.rounding.before.shares) * counts.sum(), shares, atol=2)
    assert together.unit == ("step size" if weights == "lsq" else "clipping threshold")


@pytest.mark.parametrize("inputs", INPUTS)
def test_inputs_before_and_after(tiny_net, images, inputs):
    net = quantized(tiny_net, images, inputs=inputs)
    seen, figures = {}, InputFigures()
    hooks = [layer.register_forward_pre_hook(lambda _, given, name=name: seen.__setitem__(name, given[0]))
             for name, layer in quant_layers(net)]  # fmt: skip
    with torch.no_grad(), evaluating(net), inputs_seen(net, figures.see):
        net(images)
    figures.end_batch()
    for hook in hooks:
        hook.remove()
    for name, layer in quant_layers(net):
        x = seen[name]
        x_hat = layer.activation_quantizer.eval()(x).detach().numpy()  # training's form: another way through the code
        errors = [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in zip(x.numpy(), x_hat, strict=True)]
        assert np.allclose(figures.errors[name].numpy(), errors, rtol=1e-4)
    first, last = figures.extremes("pointwise")
    shown = layer_input(net, "pointwise", {first: images[first : first + 1], last: images[last : last + 1]})
    x = seen["pointwise"]
    quantizer = net.pointwise.activation_quantizer
    if quantizer.adapter is not None:
        betas = quantizer.adapter(x).flatten().detach()
        assert (first, last) == (int(betas.argmin()), int(betas.argmax())) and first != last
        assert [view.beta for view in shown.images] == pytest.approx(betas[[first, last]].tolist(), rel=1e-5)
    for view in shown.images:
        rounded = quantizer(x[view.image : view.image + 1]).detach().numpy()
        values, counts = np.unique(np.round(rounded / view.step_size), return_counts=True)
        used = {round(level / view.step_size): share
                for level, share in zip(view.rounding.levels, view.rounding.shares, strict=True) if share}  # fmt: skip
        assert used == pytest.approx(dict(zip(values.astype(int), counts / counts.sum(), strict=True)))
        assert sum(view.rounding.before.shares) == pytest.approx(1)


def test_outputs_beside_the_float_network(tiny_net, images):
    exact = copy.deepcopy(tiny_net).eval()
    net = quantized(tiny_net, images)
    places = points(net)
    assert places == list(KINDS)  # no blocks
    figures = OutputFigures()
    with torch.no_grad(), evaluating(net):
        with outputs_kept(net, places) as kept:
            logits = net(images)
        with quantizers_off(net), outputs_kept(net, places) as float_kept:
            float_logits = net(images)
        assert torch.allclose(float_logits, exact(images), rtol=1e-4, atol=1e-5)
        assert torch.equal(net(images), logits)  # on again
    figures.add(kept, float_kept)
    wanted = (logits - exact(images)).norm(dim=1) / exact(images).norm(dim=1)
    assert torch.allclose(figures.errors["head"].float(), wanted, rtol=1e-3)
    assert list(figures.errors) == list(KINDS)


class Inverted(nn.Module):
    """A block whose layers lie in a part of it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, x):
        return x + self.conv(x)


def names_of(net, size):
    kinds = {nn.Conv2d: "conv", nn.Linear: "linear"}
    specs = [LayerSpec(name=name, kind=kinds[type(module)], weights=WEIGHTS["lsq"], activations=INPUTS["lsq"])
             for name, module in net.named_modules() if type(module) in kinds]  # fmt: skip
    calibrate(net.eval(), specs, [torch.randn(2, 3, size, size)], start="lsq")
    return points(net)


def test_blocks():
    blocks = names_of(CifarResNet(20, 10), 8)
    assert sorted(blocks) == ["conv1", *(f"layer{k}.{n}" for k in (1, 2, 3) for n in (0, 1, 2)), "linear"]
    stages = [nn.Conv2d(3, 4, 1), Inverted(), Inverted(), nn.Sequential(Inverted())]
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert sorted(names_of(net, 8)) == ["0", "1", "2", "3", "6"]  # with the residual; of nested ones the outermost


def test_spreads_and_shares():
    spread = spread_of(torch.arange(101.0))
    assert (spread.low, spread.lower, spread.median, spread.upper, spread.high) == (5, 25, 50, 75, 95)
    values = torch.tensor([-3.0, 0.1, 0.2, 0.9, float("nan")])
    rounding = rounding_of(values, values.round(), torch.tensor([0.0, 1.0, 2.0]), low=0, high=1, bins=2)
    assert rounding.before.shares == pytest.approx([0.4, 0.2])
    assert rounding.shares == pytest.approx([0.6, 0.2, 0.0])
