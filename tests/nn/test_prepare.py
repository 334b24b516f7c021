import pytest
import torch
from torch import nn

from asqcli.errors import UnsupportedError
from asqcli.nn.calibration import calibrate
from asqcli.nn.layers import QuantConv2d, QuantLinear
from asqcli.nn.norms import TwoStepBatchNorm2d
from asqcli.nn.prepare import prepare, quant_layers, quantizers
from asqcli.nn.survey import refuse_unsupported, survey
from asqcli.quant.spec import AsqActivations, LayerSpec, LsqActivations, PostWeights, UniformWeights

ASQ, LSQ, POST = AsqActivations(bits=4), LsqActivations(bits=4), PostWeights(bits=4)


def specs_for(model, weights=POST, activations=ASQ, signed=None):
    layers = survey(model, torch.zeros(1, 3, 8, 8)).layers
    return [
        LayerSpec(name=layer.name, kind=layer.kind, weights=weights, activations=activations, signed=signed)
        for layer in layers
    ]


def test_survey_follows_execution_not_definition():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.unused, self.first = nn.Linear(4, 2), nn.Linear(4, 2), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.last(self.first(x).mean((2, 3)))

    seen = survey(Backwards(), torch.zeros(1, 3, 8, 8))
    assert [(layer.name, layer.kind) for layer in seen.layers] == [("first", "conv"), ("last", "linear")]
    assert seen.unused == ("unused",) and seen.output.shape == (1, 2)


def test_what_cannot_be_quantized_is_named():
    with pytest.raises(UnsupportedError, match="`1` is a ConvTranspose2d"):
        refuse_unsupported(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 3)))
    with pytest.raises(UnsupportedError, match="fails on an input of shape"):
        survey(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3)), torch.zeros(1, 3, 8, 8))


def test_a_layer_whose_weights_are_parametrized_is_refused():
    """It would stay in float unnoticed."""
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1))
    with pytest.raises(UnsupportedError, match=r"the weight of layer `0`"):
        refuse_unsupported(nn.Sequential(layer, nn.Conv2d(4, 4, 1)))


def test_calibration_swaps_layers_and_observes_signedness(tiny_net):
    parameters = {name: p.data_ptr() for name, p in tiny_net.named_parameters()}
    images = torch.randn(8, 3, 8, 8)
    specs = calibrate(tiny_net, specs_for(tiny_net), [images], start="mse")
    assert {p.name: p.signed for p in specs} == {
        "stem": True,
        "depthwise": False,
        "pointwise": False,
        "linear_bottleneck": True,
        "head": True,
    }
    assert [type(m) for _, m in quant_layers(tiny_net)] == [QuantConv2d] * 4 + [QuantLinear]
    assert isinstance(tiny_net.bn, TwoStepBatchNorm2d)
    after = dict(tiny_net.named_parameters())
    assert all(after[name].data_ptr() == pointer for name, pointer in parameters.items())
    assert dict(tiny_net.named_modules())["depthwise"].weight_quantizer.clipping_threshold.shape == (8,)


def test_quantized_network_is_near_the_float_one_at_8_bits(tiny_net):
    images = torch.randn(16, 3, 8, 8)
    expected = tiny_net(images)
    lsq8 = UniformWeights(bits=8), LsqActivations(bits=8)
    calibrate(tiny_net, specs_for(tiny_net, *lsq8), [images], start="mse")
    assert (tiny_net(images) - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize("start", ["mse", "lsq"])
def test_batch_of_one_equals_batch_of_many_to_the_bit(tiny_net, start):
    torch.manual_seed(3)
    images = torch.randn(33, 3, 8, 8)
    calibrate(tiny_net, specs_for(tiny_net), [images], start=start)
    with torch.no_grad():
        for quantizer in quantizers(tiny_net):
            if getattr(quantizer, "adapter", None) is not None:
                quantizer.adapter.layers[-1].weight.normal_(std=1.0)  # betas that differ between samples
        together = tiny_net(images)
        assert torch.equal(together, torch.cat([tiny_net(images[i : i + 1]) for i in range(33)]))
        assert torch.equal(together[5:12], tiny_net(images[5:12]))


def test_a_module_used_twice_is_swapped_once():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 3, 1)
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x))

    model = Shared()
    spec = LayerSpec(name="a", kind="conv", weights=POST, activations=LSQ, signed=True)
    prepare(model, [spec], torch.zeros(1, 3, 8, 8))
    assert model.a is model.b and isinstance(model.a, QuantConv2d)


def test_a_printed_layer_tells_how_it_is_quantized(tiny_net):
    calibrate(tiny_net, specs_for(tiny_net), [torch.randn(4, 3, 8, 8)], start="mse")
    text = repr(tiny_net.depthwise)
    assert "(weight_quantizer): LevelWeightQuantizer(post 4 bits (7/5))" in text
    assert "asq 4 bits, unsigned" in text and "hidden quarter" in text


def test_state_dict_keeps_float_names_and_round_trips(tiny_net):
    names = set(tiny_net.state_dict())
    images = torch.randn(4, 3, 8, 8)
    specs = calibrate(tiny_net, specs_for(tiny_net), [images], start="mse")
    state = tiny_net.state_dict()
    assert names <= set(state)
    twin = prepare(type(tiny_net)(), specs, torch.zeros(1, 3, 8, 8))
    twin.load_state_dict(state)
    assert torch.equal(twin.eval()(images), tiny_net(images))


def test_autocast_inside_a_network_changes_no_bit_of_its_evaluation(tiny_net):
    images, forward = torch.randn(4, 3, 8, 8), type(tiny_net).forward

    class Cast(type(tiny_net)):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return forward(self, x)

    calibrate(tiny_net, specs_for(tiny_net), [images], start="mse")
    expected = tiny_net(images)
    tiny_net.__class__ = Cast
    assert torch.equal(tiny_net(images), expected)
