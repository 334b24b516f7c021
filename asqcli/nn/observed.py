"""Quantized layers seen at work, and the network with its quantizers switched off: for a while, from outside."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from asqcli.nn.geometry import Geometry
from asqcli.nn.layers import QuantConv2d, QuantLinear
from asqcli.nn.prepare import quant_layers

Layer = QuantConv2d | QuantLinear


@contextmanager
def inputs_seen(model: nn.Module, see: Callable[[str, Layer, Tensor], None]) -> Generator[None]:
    """Show `see` each quantized layer's name, the layer, and what its product gets, before that is quantized.

    Of a layer that pads by itself that is the padded input.
    """

    def around(name: str, layer: Layer, compute: Callable[..., Tensor], x: Tensor, *geometry: Geometry) -> Tensor:
        see(name, layer, x)
        return compute(x, *geometry)

    with ExitStack() as undo:
        for name, layer in quant_layers(model):
            _replace_compute(layer, partial(around, name, layer, layer.compute), undo)
        yield


@contextmanager
def quantizers_off(model: nn.Module) -> Generator[None]:
    """Let each quantized layer multiply its input and its weight as they are, neither of them quantized."""
    with ExitStack() as undo:
        for _, layer in quant_layers(model):
            _replace_compute(layer, layer.compute_in_float, undo)
        yield


@contextmanager
def outputs_kept(model: nn.Module, names: Iterable[str]) -> Generator[dict[str, Tensor]]:
    """Give copies of what the named modules return meanwhile, in the order in which they end.

    A module that is called twice leaves its last output; one that returns no tensor, or that is not called as a module,
    leaves none.
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _inputs: object, output: Any) -> None:
        if isinstance(output, Tensor):
            kept[name] = output.clone()  # operations in place may follow

    handles = [model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _replace_compute(layer: Layer, compute: Callable[..., Tensor], undo: ExitStack) -> None:
    before = vars(layer).get("compute")
    undo.callback(lambda: vars(layer).pop("compute") if before is None else vars(layer).update(compute=before))
    vars(layer)["compute"] = compute
