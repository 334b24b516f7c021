"""A quantized layer's parameters to what the artifact stores of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asqcli.artifact import nodes
from asqcli.artifact.packing import pack
from asqcli.errors import UnsupportedError
from asqcli.nn.layers import QuantConv2d, QuantLinear
from asqcli.nn.norms import TwoStepNorm
from asqcli.quant.activation_quantizers import ActivationQuantizer, StepSizeQuantizer
from asqcli.quant.adapter import Adapter
from asqcli.quant.levels import INT8_MAX


class TensorStore:
    """The tensors of an artifact in the making; level tables with the same content are stored once."""

    def __init__(self) -> None:
        self.tensors: dict[str, np.ndarray] = {}
        self._level_tables: dict[bytes, str] = {}
        self._descriptions: dict[tuple[Callable[..., Any], str], Any] = {}

    def once(self, store: Callable[..., Any], name: str, layer: Any) -> Any:
        """Return what `store` makes of a layer, of whose name there is one; it need not be asked again."""
        if (store, name) not in self._descriptions:
            self._descriptions[store, name] = store(name, layer, self)
        return self._descriptions[store, name]

    def add(self, name: str, tensor: Tensor | np.ndarray, dtype: type) -> str:
        """Store a tensor, once per name; return the name."""
        if name not in self.tensors:
            array = tensor.detach().cpu().numpy() if isinstance(tensor, Tensor) else tensor
            self.tensors[name] = np.ascontiguousarray(array, dtype)
        return name

    def add_level_table(self, table: tuple[float, ...]) -> str:
        """Store a level table, (2^code_bits,); return its name."""
        content = np.array(table, np.int8)
        name = self._level_tables.setdefault(content.tobytes(), f"levels.{len(self._level_tables)}")
        return self.add(name, content, np.int8)


def require_integers(name: str, layer: QuantConv2d | QuantLinear) -> None:
    """Refuse a layer that integers cannot stand for.

    Raises:
        UnsupportedError: a float operand, an irrational grid, or levels beyond int8; says what to change.
    """
    for operand, quantizer in (("weights", layer.weight_quantizer), ("activations", layer.activation_quantizer)):
        if quantizer is None:
            raise UnsupportedError(
                f"layer `{name}` has float {operand}, and the engine runs integers",
                f"train it with bits for them: `first_last: 8`, or a rule for `{name}` under `layers`",
            )
    assert layer.weight_quantizer is not None
    if not layer.weight_quantizer.integer:
        largest = max(layer.weight_quantizer.spec.level_table)
        if largest > INT8_MAX:  # the printed 4-bit POT levels
            reason = f"has weights with levels up to {largest:g}, and the engine's are 8-bit integers"
            raise UnsupportedError(f"layer `{name}` {reason}", "train with `levels: codes`")
        raise UnsupportedError(
            f"layer `{name}` has weights on the grid `exact`, which no integers hold", "train with `grid: 7/5`"
        )


@torch.no_grad()
def store_weights(name: str, layer: QuantConv2d | QuantLinear, store: TensorStore) -> nodes.Weights:
    """Store a layer's weight codes, level table, scales and bias."""
    assert layer.weight_quantizer is not None
    spec = layer.weight_quantizer.spec
    levels, scale, _ = layer.integer_weight()
    return nodes.Weights(
        shape=tuple(layer.weight.shape),
        code_bits=spec.code_bits,
        codes=store.add(f"{name}.codes", pack(_codes(levels, spec.level_table), spec.code_bits), np.uint8),
        levels=store.add_level_table(spec.level_table),
        scale=store.add(f"{name}.scale", scale, np.float32),
        scale_per=spec.per,
        bias=None if layer.bias is None else store.add(f"{name}.bias", layer.bias, np.float32),
    )


def _codes(levels: Tensor, table: tuple[float, ...]) -> np.ndarray:
    """Return the code of each level, uint8: its first place in the table."""
    code_of = np.zeros(256, np.uint8)
    for code in reversed(range(len(table))):
        code_of[int(table[code]) + 128] = code
    return code_of[levels.cpu().numpy().astype(np.int64) + 128]


@torch.no_grad()
def store_activations(name: str, quantizer: ActivationQuantizer, store: TensorStore) -> nodes.Activations:
    """Store how a layer's input becomes codes."""
    qmin, qmax, step_size = quantizer.integer_form()
    as_printed = isinstance(quantizer, StepSizeQuantizer) and quantizer.dequantizes_as_printed
    return nodes.Activations(
        qmin=qmin,
        qmax=qmax,
        step_size=store.add(f"{name}.step_size", step_size.reshape(1), np.float32),
        dequantize_by="step_size" if as_printed else "adapted_step_size",
        adapter=None if quantizer.adapter is None else _store_adapter(name, quantizer.adapter, store),
    )


def _store_adapter(name: str, adapter: Adapter, store: TensorStore) -> nodes.Adapter:
    layers: list[nodes.AdapterLayer] = []
    for index, layer in enumerate(adapter.linears):
        prefix = f"{name}.adapter.{index}"
        weight, row_scale = adapter.integer_weight(layer)
        exact = adapter.spec.bits == "float"
        layers.append(
            nodes.AdapterLayer(
                outputs=layer.out_features,
                weight=store.add(f"{prefix}.weight", weight, np.float32 if exact else np.int8),
                row_scale=None if exact else store.add(f"{prefix}.row_scale", row_scale, np.float32),
                bias=store.add(f"{prefix}.bias", layer.bias, np.float32),
            )
        )
    return nodes.Adapter(layers=tuple(layers), output=adapter.spec.output)


@torch.no_grad()
def store_batch_norm(name: str, layer: TwoStepNorm, store: TensorStore) -> tuple[str, str]:
    """Store g and b; return their names."""
    g, b = layer.multiplier_and_addend()
    return store.add(f"{name}.g", g, np.float32), store.add(f"{name}.b", b, np.float32)
