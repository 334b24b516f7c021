"""A float network to a quantized one: signedness and starting values from training batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from asqcli.errors import UnsupportedError
from asqcli.nn.adapters import TrainedAdapters
from asqcli.nn.derived import OwnProduct
from asqcli.nn.forward import run_in_evaluation
from asqcli.nn.layer_calls import is_derived
from asqcli.nn.modes import evaluating, modes_in_training
from asqcli.nn.prepare import prepare, quant_layers
from asqcli.quant.spec import LayerSpec

# Values kept of each layer's input, over all batches. A stride through the batch takes them from every image and
# channel.
SAMPLES = 2**16


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
def observe_inputs(
    model: nn.Module, names: list[str], batches: list[Tensor], adapters: TrainedAdapters | None = None
) -> dict[str, InputStatistics]:
    """Run the float network on `batches`, (N, 3, H, W) each, and return what reaches each named layer.

    Args:
        adapters: on the model's device; what reaches their layers is sampled in units of their beta.
    """
    adapters = adapters or {}
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    lowest = dict.fromkeys(names, 0.0)
    share = SAMPLES // len(batches)

    def keep(name: str, input: Tensor) -> None:
        lowest[name] = min(lowest[name], input.min().item())
        flat = (adapters[name].in_units_of_beta(input) if name in adapters else input).flatten()
        stride = max(1, flat.numel() // share)
        while math.gcd(stride, flat.numel()) > 1:  # it would keep hitting the same channels, rows or columns
            stride += 1
        seen[name].append(flat[::stride][:share].clone())

    # Around `forward` and not as hooks: a network may run that without calling the layer.
    with evaluating(model), ExitStack() as undo:
        for name in names:
            _watch_forward(model.get_submodule(name), name, partial(keep, name), undo)
        for batch in batches:
            run_in_evaluation(model, batch)
    if missed := [name for name in names if not seen[name]]:
        raise UnsupportedError(
            f"layer `{missed[0]}` runs without being called by its name in the network",
            "call it as `self.layer(x)`, not by a method of it that is kept elsewhere",
        )
    return {name: InputStatistics(lowest[name] < 0, torch.cat(seen[name])) for name in names}


def _watch_forward(layer: nn.Module, name: str, watch: Callable[..., None], undo: ExitStack) -> None:
    """Show `watch` each input of a layer's product until `undo`."""
    forward = layer.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        watch(*args, **kwargs)
        return forward(*args, **kwargs)

    def watched_inside(*args: Any, **kwargs: Any) -> Any:
        with OwnProduct(layer, name, lambda call: watch(call.input)):
            return forward(*args, **kwargs)

    if "forward" in vars(layer):
        undo.callback(vars(layer).__setitem__, "forward", forward)
    else:
        undo.callback(lambda: vars(layer).pop("forward"))
    layer.forward = watched_inside if is_derived(layer) else watched


def calibrate(
    model: nn.Module,
    specs: list[LayerSpec],
    batches: Iterable[Tensor],
    *,
    start: str,
    adapters: TrainedAdapters | None = None,
) -> list[LayerSpec]:
    """Quantize the float `model` in place and give every quantizer its starting values.

    Args:
        specs: one per layer to quantize; returned with `signed` filled in.
        batches: training images, (N, 3, H, W) each, on the model's device.
        start: "mse" for the least squared error, or "lsq" for 2 * mean|x| / sqrt(qmax).
        adapters: trained ones that fit their layers' specs, on the model's device: these start as they are.
    """
    batches, adapters = list(batches), adapters or {}
    statistics = observe_inputs(model, [spec.name for spec in specs], batches, adapters)
    specs = [spec.model_copy(update={"signed": statistics[spec.name].signed}) for spec in specs]
    trained = modes_in_training(model)
    prepare(model, specs, torch.zeros_like(batches[0][:1]))
    _require_same_modes(trained, modes_in_training(model))
    for name, layer in quant_layers(model):
        if layer.weight_quantizer is not None:
            layer.weight_quantizer.start(layer.weight, start)
        if layer.activation_quantizer is not None:
            if name in adapters and layer.activation_quantizer.adapter is not None:
                layer.activation_quantizer.adapter.load_state_dict(adapters[name].adapter.state_dict())
            layer.activation_quantizer.start(statistics[name].samples, start)
    return specs


def _require_same_modes(before: dict[str, bool], after: dict[str, bool]) -> None:
    """Refuse a network whose own `train` treats replaced layers otherwise than the float ones."""
    for name, training in before.items():
        if after.get(name, training) != training:
            raise UnsupportedError(
                f"the network's own `train()` {'trains' if training else 'freezes'} layer `{name}` in float only",
                "asq replaces layers by subclasses: ask `isinstance(module, nn.BatchNorm2d)`, not `type(module)`",
            )
