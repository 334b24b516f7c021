"""Calls of quantized layers and batch norms."""

from __future__ import annotations

from asqcli.artifact import nodes
from asqcli.export.graph import NO_VALUE, Call, Unsupported, Value
from asqcli.export.integers import require_integers, store_activations, store_batch_norm, store_weights
from asqcli.export.operations.registry import lowers
from asqcli.nn.geometry import Geometry
from asqcli.nn.layers import QuantConv2d, QuantLinear, quantized_layer
from asqcli.nn.norms import TwoStepNorm


@lowers(quantized_layer, says="quantized convolutions and linear layers, batch norm")
def layer(
    call: Call, layer: QuantConv2d | QuantLinear | TwoStepNorm, x: object, geometry: Geometry | None = None
) -> Value:
    if not isinstance(x, Value):
        raise Unsupported(NO_VALUE)
    if (name := call.graph.layers.get(layer)) is None:
        raise Unsupported("it is no layer of the network")
    if isinstance(layer, TwoStepNorm):
        return _batch_norm(call, x, layer, name)
    return _product(call, x, layer, name, geometry)


def _product(call: Call, x: Value, layer: QuantConv2d | QuantLinear, name: str, geometry: Geometry | None) -> Value:
    require_integers(name, layer)
    store = call.graph.store
    activations = store.once(store_activations, name, layer.activation_quantizer)
    weights = store.once(store_weights, name, layer)
    if isinstance(layer, QuantLinear):
        if len(call.shape_of(x)) != 1:
            raise Unsupported(f"its input has the shape {call.shape_of(x)} for one image, not (features,)")
        return call.emit(nodes.Linear, x, name=name, activations=activations, weights=weights)
    geometry = geometry or _own_geometry(layer)
    return call.emit(
        nodes.Conv,
        x,
        name=name,
        activations=activations,
        weights=weights,
        stride=tuple(geometry.stride),
        padding=_borders(geometry, layer.weight.shape[2:]),
        dilation=tuple(geometry.dilation),
        groups=geometry.groups,
    )


def _batch_norm(call: Call, x: Value, layer: TwoStepNorm, name: str) -> Value:
    if layer.running_mean is None:
        raise Unsupported("it has no running statistics")
    g, b = call.graph.store.once(store_batch_norm, name, layer)
    shape = call.shape_of(x)
    if len(shape) == 2:  # lines, which the node takes as images of one row
        x = call.emit(nodes.Reshape, x, shape=(shape[0], 1, shape[1]), gives=(shape[0], 1, shape[1]))
        x = call.emit(nodes.BatchNorm, x, name=name, g=g, b=b, gives=call.shape_of(x))
        return call.emit(nodes.Reshape, x, shape=shape)
    return call.emit(nodes.BatchNorm, x, name=name, g=g, b=b)


def _own_geometry(layer: QuantConv2d) -> Geometry:
    if layer.padding_mode != "zeros":
        raise Unsupported(f"it pads with `{layer.padding_mode}`, and the engine with zeros")
    return Geometry.of(layer)


def _borders(geometry: Geometry, kernel_size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return a convolution's padding, (top, left, bottom, right)."""
    if geometry.padding == "valid":
        return 0, 0, 0, 0
    if isinstance(geometry.padding, str):  # "same", as torch: the smaller half first
        down, across = (d * (k - 1) for d, k in zip(geometry.dilation, kernel_size, strict=True))
        return down // 2, across // 2, down - down // 2, across - across // 2
    down, across = geometry.padding
    return down, across, down, across
