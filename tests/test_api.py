import pytest
import torch

from asqcli.api import export_module, quantize_module
from asqcli.errors import RecipeError, UnsupportedError, UsageError
from asqcli.nn.prepare import quant_layers


def test_settings_of_single_layers(tiny_net):
    quantize_module(
        tiny_net,
        [torch.randn(4, 3, 8, 8)],
        scheme="lsq",
        bits=3,
        activations={"quantizer": "asq"},
        first_last="same",
        layers={"pointwise": {"weights": {"quantizer": "post", "bits": 4, "grid": "7/5"}}},
    )
    layers = dict(quant_layers(tiny_net))
    assert layers["pointwise"].weight_quantizer.spec.level_set.largest == 40
    assert layers["stem"].weight_quantizer.spec.code_bits == 3 and layers["stem"].activation_quantizer.adapter is None
    assert layers["depthwise"].activation_quantizer.adapter is not None


def test_mistakes_are_told(tiny_net):
    with pytest.raises(RecipeError, match="2 mistakes in the arguments"):
        quantize_module(tiny_net, [torch.randn(1, 3, 8, 8)], scheme="post", bits=5, first_last=4)
    with pytest.raises(UsageError, match="matches no layer"):
        quantize_module(tiny_net, [torch.randn(1, 3, 8, 8)], layers={"pontwise": {}})
    with pytest.raises(UsageError, match="`batches` is empty"):
        quantize_module(tiny_net, [])
    with pytest.raises(UsageError, match="`start` is `meen`"):
        quantize_module(tiny_net, [torch.randn(1, 3, 8, 8)], start="meen")
    assert not list(quant_layers(tiny_net))
    quantize_module(tiny_net, [torch.randn(4, 3, 8, 8)])
    with pytest.raises(UnsupportedError, match="`stem` is quantized already"):
        quantize_module(tiny_net, [torch.randn(4, 3, 8, 8)])


def test_an_export_leaves_every_module_in_its_mode(tiny_net, tmp_path):
    quantize_module(tiny_net, [torch.randn(4, 3, 8, 8)]).train()
    tiny_net.bn.eval()  # as who freezes the statistics of a batch norm
    before = {name: module.training for name, module in tiny_net.named_modules()}
    export_module(tiny_net, tmp_path / "net.asq", image_size=8, classes=[str(c) for c in range(10)])
    assert {name: module.training for name, module in tiny_net.named_modules()} == before
