"""From settings to a quantized network: plans of the layers, signedness, starting values from training batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from asqcli.errors import UnsupportedError
from asqcli.nn.prepare import LayerPlan, prepare, quant_layers
from asqcli.nn.survey import Survey, SurveyedLayer, refuse_unsupported
from asqcli.recipe.layers import resolve_layers
from asqcli.recipe.schema import Quantization

# Values kept of each layer's input, over all batches. A stride through the batch takes them from every image and
# channel.
SAMPLES = 2**16


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


@dataclass(frozen=True)
class InputStatistics:
    """What was seen of one layer's input.

    Attributes:
        signed: was any value negative?
        samples: up to 65,536 values, (count,).
    """

    signed: bool
    samples: Tensor


@torch.no_grad()
def observe_inputs(model: nn.Module, names: list[str], batches: list[Tensor]) -> dict[str, InputStatistics]:
    """Run the float network on `batches`, (N, 3, H, W) each, and return what reaches each named layer."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    lowest = dict.fromkeys(names, 0.0)
    share = SAMPLES // len(batches)

    def keep(name: str, input: Tensor) -> None:
        lowest[name] = min(lowest[name], input.min().item())
        flat = input.flatten()
        stride = max(1, flat.numel() // share) | 1  # odd: even strides would keep hitting the same columns
        seen[name].append(flat[::stride][:share].clone())

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, kwargs, name=name: keep(name, *args, **kwargs), with_kwargs=True
        )
        for name in names
    ]
    training = model.training
    model.eval()
    for batch in batches:
        model(batch)
    model.train(training)
    for hook in hooks:
        hook.remove()
    return {name: InputStatistics(lowest[name] < 0, torch.cat(seen[name])) for name in names}


def calibrate(model: nn.Module, plans: list[LayerPlan], batches: Iterable[Tensor], *, start: str) -> list[LayerPlan]:
    """Quantize the float `model` in place and give every quantizer its starting values.

    Args:
        plans: one per layer to quantize; returned with `signed` filled in.
        batches: training images, (N, 3, H, W) each, on the model's device.
        start: "mse" for the least squared error, or "lsq" for 2 * mean|x| / sqrt(qmax).
    """
    statistics = observe_inputs(model, [plan.name for plan in plans], list(batches))
    plans = [replace(plan, signed=statistics[plan.name].signed) for plan in plans]
    prepare(model, plans)
    for name, layer in quant_layers(model):
        if layer.weight_quantizer is not None:
            layer.weight_quantizer.start(layer.weight, start)
        if layer.activation_quantizer is not None:
            layer.activation_quantizer.start(statistics[name].samples, start)
    return plans
