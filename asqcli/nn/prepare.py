"""Put fake quantizers into a float network, as a plan says: no tracing, any module tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from asqcli.nn.arithmetic import evaluate_exactly
from asqcli.nn.layers import QuantConv2d, QuantLinear, TwoStepBatchNorm2d
from asqcli.quant.activation_quantizers import ActivationQuantizer, make_activation_quantizer
from asqcli.quant.weight_quantizers import WeightQuantizer, make_weight_quantizer


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is to be quantized, in plain values that fit in JSON.

    Attributes:
        name: as in `named_modules`.
        kind: conv, depthwise or linear.
        weights: arguments of `make_weight_quantizer`, or None for float.
        activations: arguments of `make_activation_quantizer`, or None for float.
        signed: can the layer's input be negative? None while it has not been observed.
    """

    name: str
    kind: str
    weights: dict | None
    activations: dict | None
    signed: bool | None = None


def prepare(model: nn.Module, plans: list[LayerPlan]) -> nn.Module:
    """Replace the planned layers of `model` by quantized ones, in place, and return it.

    Steps and thresholds are 1 until `start_from` or a state dict sets them. Every batch norm is replaced by one that
    evaluates in the engine's arithmetic, which pools and gates do too; parameters are shared with the layers that they
    replace.

    Args:
        model: a float network; the quantized one when it returns.
        plans: one per layer to quantize; `signed` is known in each that has quantized activations.
    """
    quantized = {
        id(model.get_submodule(plan.name)): _quantized_layer(model.get_submodule(plan.name), plan) for plan in plans
    }
    # By identity, and not through named_children, which names a shared module once: each name gets the same new module.
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in quantized:
                setattr(parent, name, quantized[id(child)])
            elif type(child) is nn.BatchNorm2d:
                twin = quantized[id(child)] = TwoStepBatchNorm2d.from_float(child)
                setattr(parent, name, twin)
    evaluate_exactly(model)
    return model


def _quantized_layer(layer: nn.Module, plan: LayerPlan) -> nn.Module:
    weight_quantizer = activation_quantizer = None
    linear = isinstance(layer, nn.Linear)
    if plan.weights is not None:
        weight_quantizer = make_weight_quantizer(layer.weight.shape[0], **plan.weights)
    if plan.activations is not None:
        assert plan.signed is not None, f"signedness of {plan.name} was never observed"
        channels = layer.in_features if linear else layer.in_channels
        activation_quantizer = make_activation_quantizer(
            channels, signed=plan.signed, channels_last=linear, **plan.activations
        )
    twin = QuantLinear if linear else QuantConv2d
    return twin.from_float(layer, weight_quantizer, activation_quantizer).to(layer.weight.device)


def quant_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, layer) for each quantized layer of `model`."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, QuantConv2d | QuantLinear))


def quantizers(model: nn.Module) -> Iterator[WeightQuantizer | ActivationQuantizer]:
    """Yield every weight and activation quantizer of `model`."""
    return (m for m in model.modules() if isinstance(m, WeightQuantizer | ActivationQuantizer))


@torch.no_grad()
def project_steps(model: nn.Module) -> None:
    """Bring steps and thresholds back above 0; call after each optimizer step."""
    for quantizer in quantizers(model):
        quantizer.project()
