from dataclasses import asdict

import pytest
import torch
from torch import nn

from asqcli.artifact import document
from asqcli.artifact.file import part_bytes
from asqcli.export.network import export_network
from asqcli.nn.calibration import calibrate
from asqcli.nn.survey import survey
from asqcli.overhead.count import count_network
from asqcli.overhead.stored import StoredLayer, adapter_bytes, stored_bytes, stored_cost, stored_layer
from asqcli.recipe.layers import resolve_layers
from asqcli.recipe.load import Draft, check, overlay_scheme
from asqcli.recipe.schema import Quantization


def specs_of(model, scheme, bits, size=8, **values):
    draft = Draft()
    draft.overlay(values, "test")
    overlay_scheme(draft, scheme, bits)
    layers = survey(model, torch.zeros(1, 3, size, size)).layers
    return resolve_layers(check(draft, "test", Quantization), layers, source="test")


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
def test_equal_to_the_exported_file(tiny_net, scheme, bits):
    """Part by part, the graph apart, which is not known before export; PReLU's slopes are the other floats."""
    tiny_net = nn.Sequential(tiny_net, nn.PReLU(10, init=0.5))
    counted, specs = count_network(tiny_net, 8), specs_of(tiny_net, scheme, bits)
    cost = asdict(stored_cost(counted, specs))
    calibrate(tiny_net, specs, [torch.randn(4, 3, 8, 8)], start="mse")
    artifact = export_network(
        tiny_net,
        classes=tuple("abcdefghij"),
        preprocessing=document.Input(image_size=8, resize=8, mean=(0.0,) * 3, std=(1.0,) * 3),
        provenance=document.Provenance(asqcli="test", model="tiny"),
    )
    parts = part_bytes(artifact)
    assert parts.pop("graph") > 0 and parts["floats"] == 4 * 10
    assert parts == cost
    assert (parts["adapters"] > 0) == (scheme in ("post", "asq"))


def test_settings_of_a_layer_reach_its_bytes(tiny_net):
    layer = count_network(tiny_net, 8).middle[-1]  # 16 channels to 12
    settings = {"quantizer": "asq", "adapter": {"hidden": 3, "bits": "float"}}
    spec = specs_of(tiny_net, "post", 4, weights={"per": "tensor", "grid": "7/5"}, activations=settings)[-2]
    stored = stored_layer(layer, spec)
    assert (stored.weight_scales, stored.adapter_widths, stored.adapter_bits) == (1, (16, 3, 1), 32)
    assert max(stored.level_table) == 40 and len(stored.level_table) == 16
