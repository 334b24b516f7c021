"""Which layers of a network are quantized, and how: settings to one plan per layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from torch import nn

from asqcli.errors import UnsupportedError
from asqcli.nn.prepare import LayerPlan
from asqcli.nn.survey import Survey, SurveyedLayer, refuse_unsupported
from asqcli.recipe.layers import resolve_layers
from asqcli.recipe.schema import Quantization


def plan_layers(quantization: Quantization, model: nn.Module, seen: Survey, *, source: str) -> list[LayerPlan]:
    """Return how each layer of the float `model` is to be quantized; signedness is not known yet.

    Args:
        seen: the survey of the model.
        source: where the settings came from, for error messages.
    Raises:
        UnsupportedError: the network has layers that cannot be quantized, or none that can.
    """
    refuse_unsupported(model)
    if not seen.layers:
        raise UnsupportedError("the network calls no Conv2d or Linear layer that could be quantized")
    return plans_for(quantization, seen.layers, source=source)


def plans_for(quantization: Quantization, layers: Sequence[SurveyedLayer], *, source: str) -> list[LayerPlan]:
    """Return the plan of each layer; `layers` in the order of execution, because the first and the last are special."""
    settings = resolve_layers(quantization, [layer.name for layer in layers], source)
    return [LayerPlan(layer.name, layer.kind, **asdict(settings[layer.name])) for layer in layers]
