"""Adapters that were trained in a network of other bits, and go on in one of the same layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asqcli.nn.prepare import quant_layers
from asqcli.quant.adapter import Adapter
from asqcli.quant.spec import AsqActivations, LayerSpec


@dataclass(frozen=True)
class TrainedAdapter:
    """The adapter of one layer.

    Attributes:
        activations: what the quantizer is that it was trained in.
        adapter: in evaluation mode.
    """

    activations: AsqActivations
    adapter: Adapter

    def fits(self, spec: LayerSpec) -> bool:
        """Is the layer's new quantizer the same but for its bits?"""
        new = spec.activations
        return new is not None and self.activations.model_copy(update={"bits": new.bits}) == new

    def in_units_of_beta(self, x: Tensor) -> Tensor:
        """Return `x` / beta, of the shape of `x`: the step size that fits it is the one that beta then multiplies."""
        return x / self.adapter(x)


TrainedAdapters = dict[str, TrainedAdapter]  # by the names of layers


def trained_adapters(model: nn.Module) -> TrainedAdapters:
    """Return the adapters of a quantized network, which is not used otherwise."""
    found: TrainedAdapters = {}
    for name, layer in quant_layers(model):
        quantizer = layer.activation_quantizer
        if quantizer is not None and quantizer.adapter is not None and isinstance(quantizer.spec, AsqActivations):
            found[name] = TrainedAdapter(quantizer.spec, quantizer.adapter.eval())
    return found


def fitting_adapters(adapters: TrainedAdapters, specs: list[LayerSpec], device: torch.device) -> TrainedAdapters:
    """Return those that can go on in layers of these specs, on the device."""
    fitting = {spec.name for spec in specs if spec.name in adapters and adapters[spec.name].fits(spec)}
    for name in fitting:
        adapters[name].adapter.to(device)
    return {name: trained for name, trained in adapters.items() if name in fitting}
