import pytest
import torch
from torch import nn

from asqcli.nn.prepare import quant_layers
from asqcli.nn.survey import survey
from asqcli.overhead.count import count_network
from asqcli.overhead.stored import StoredLayer, adapter_bytes, stored_bytes, stored_cost, stored_layer
from asqcli.recipe.load import Draft, check, lay_scheme
from asqcli.recipe.schema import Quantization
from asqcli.train.calibration import calibrate, plan_layers


def plans_of(model, scheme, bits, size=8, **values):
    draft = Draft()
    draft.lay(values, "test")
    lay_scheme(draft, scheme, bits)
    return plan_layers(check(draft, "test", Quantization), model, survey(model, torch.zeros(1, 3, size, size)),
                       source="test")  # fmt: skip


def test_parts_by_hand():
    post = StoredLayer(weights=27, code_bits=3, level_table=(0.0,) * 8, weight_scales=4, biases=4)
    adapted = StoredLayer(10, 3, (0.0,) * 8, weight_scales=2, biases=0, adapter_widths=(8, 2, 1))
    end = StoredLayer(5, 8, (1.0,) * 256, weight_scales=1, biases=0)
    cost = stored_bytes([post, adapted, end], batch_norm_channels=6, float_parameters=3)
    assert cost.codes == 11 + 4 + 5  # 81 bits, 30 bits, 40 bits: each layer begins on a byte
    assert cost.level_tables == 8 + 256  # two layers share theirs
    assert cost.weight_scales == 4 * 7 and cost.biases == 16 and cost.step_sizes == 12
    assert cost.adapters == (16 + 8 * 2) + (2 + 8)
    assert cost.batch_norms == 2 * 4 * 6 and cost.floats == 12
    assert cost.total == 20 + 264 + 28 + 16 + 12 + 42 + 48 + 12
    assert cost.adapter_percent == pytest.approx(100 * 42 / (cost.total - 42))
    assert adapter_bytes((8, 2, 1), bits=32) == 4 * (16 + 2 + 2 + 1) and adapter_bytes(()) == 0


@pytest.mark.parametrize(("scheme", "bits"), [("post", 4), ("post", 3), ("pot", 2), ("apot", 4), ("asq", 8)])
def test_equal_to_what_the_quantized_network_holds(tiny_net, scheme, bits):
    """A second form: the sizes of the tensors in the network that training would export."""
    counted, plans = count_network(tiny_net, 8), plans_of(tiny_net, scheme, bits)
    cost = stored_cost(counted, plans)
    calibrate(tiny_net, plans, [torch.randn(4, 3, 8, 8)], start="mse")
    layers = [layer for _, layer in quant_layers(tiny_net)]
    weight_quantizers = [layer.weight_quantizer for layer in layers]
    assert cost.codes == sum((layer.weight.numel() * layer.weight_quantizer.code_bits + 7) // 8 for layer in layers)
    assert cost.level_tables == sum(map(len, {tuple(map(int, q.level_table)) for q in weight_quantizers}))
    scales = [layer.weight_quantizer.quantize(layer.weight)[1] for layer in layers]
    assert cost.weight_scales == sum(scale.numel() * scale.element_size() for scale in scales)
    assert cost.biases == sum(4 * layer.bias.numel() for layer in layers if layer.bias is not None)
    assert cost.step_sizes == sum(4 * layer.activation_quantizer.step_size.numel() for layer in layers)
    adapters = [layer.activation_quantizer.adapter for layer in layers if layer.activation_quantizer.adapter]
    assert cost.adapters == sum(
        linear.weight.numel() + 4 * scale.numel() + 4 * linear.bias.numel()
        for adapter in adapters
        for linear in adapter.layers
        for _, scale in [adapter.integer_weight(linear)]
    )
    assert len(adapters) == (3 if scheme in ("post", "asq") else 0)
    norms = [m for m in tiny_net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert cost.batch_norms == sum(4 * part.numel() for norm in norms for part in norm.multiplier_and_addend())
    assert cost.floats == 0


def test_settings_of_a_layer_reach_its_bytes(tiny_net):
    layer = count_network(tiny_net, 8).middle[-1]  # 16 channels to 12
    settings = {"quantizer": "asq", "adapter": {"hidden": 3, "bits": "float"}}
    plan = plans_of(tiny_net, "post", 4, weights={"per": "tensor", "grid": "7/5"}, activations=settings)[-2]
    stored = stored_layer(layer, plan)
    assert (stored.weight_scales, stored.adapter_widths, stored.adapter_bits) == (1, (16, 3, 1), 32)
    assert max(stored.level_table) == 40 and len(stored.level_table) == 16
