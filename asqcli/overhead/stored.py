"""The bytes of an exported network, part by part.

What an `.asq` file stores as tensors. Its JSON document (the graph, the class names) and the header with the tensors'
names are not counted: they are not known before export, and no weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from itertools import pairwise

from asqcli.overhead.count import Layer, Network
from asqcli.overhead.published import percent
from asqcli.quant.spec import LayerSpec

FLOAT_BYTES = 4


@dataclass(frozen=True)
class StoredLayer:
    """What an export stores of one layer with quantized weights and activations.

    Attributes:
        weights: number of weight codes, which are packed without gaps inside the layer.
        code_bits: of each.
        level_table: what its codes stand for, an int8 each; layers with the same one share it.
        weight_scales: one for each output channel, or one.
        biases: one for each output channel, or none.
        adapter_widths: from its input to beta, () without an adapter.
        adapter_bits: of the adapter's weights: 8, with a scale for each row, or 32.
    """

    weights: int
    code_bits: int
    level_table: tuple[float, ...]
    weight_scales: int
    biases: int
    adapter_widths: tuple[int, ...] = ()
    adapter_bits: int = 8


@dataclass(frozen=True)
class StoredBytes:
    """Bytes of an exported network by what they are for; their sum is `total`."""

    codes: int
    level_tables: int
    weight_scales: int
    biases: int
    step_sizes: int
    adapters: int
    batch_norms: int
    floats: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    @property
    def adapter_percent(self) -> float:
        """The adapters, in percent of everything else."""
        return percent(self.adapters, self.total - self.adapters)


PARTS = tuple(field.name for field in fields(StoredBytes))


def stored_bytes(layers: Iterable[StoredLayer], *, batch_norm_channels: int, float_parameters: int = 0) -> StoredBytes:
    """Return what an export stores.

    Args:
        layers: the quantized ones.
        batch_norm_channels: of all batch norms; g and b for each.
        float_parameters: all others, which stay as they are.

    >>> layer = StoredLayer(27, 3, (0.0, 1.0, -2.0, -1.0), weight_scales=4, biases=0, adapter_widths=(8, 2, 1))
    >>> cost = stored_bytes([layer, layer], batch_norm_channels=4)
    >>> cost.codes, cost.level_tables, cost.adapters, cost.total
    (22, 4, 84, 182)
    """
    layers = list(layers)
    return StoredBytes(
        codes=sum(-(-layer.weights * layer.code_bits // 8) for layer in layers),
        level_tables=sum(len(table) for table in {layer.level_table for layer in layers}),
        weight_scales=sum(FLOAT_BYTES * layer.weight_scales for layer in layers),
        biases=sum(FLOAT_BYTES * layer.biases for layer in layers),
        step_sizes=FLOAT_BYTES * len(layers),
        adapters=sum(adapter_bytes(layer.adapter_widths, layer.adapter_bits) for layer in layers),
        batch_norms=2 * FLOAT_BYTES * batch_norm_channels,
        floats=FLOAT_BYTES * float_parameters,
    )


def adapter_bytes(widths: Iterable[int], bits: int = 8) -> int:
    """Return what an adapter takes: weights, a bias for each row, and for 8-bit weights a scale for each row.

    >>> adapter_bytes((64, 16, 1)), adapter_bytes((64, 16, 1), bits=32)
    (1176, 4228)
    """
    per_row = 2 * FLOAT_BYTES if bits == 8 else FLOAT_BYTES
    return sum(i * o * bits // 8 + o * per_row for i, o in pairwise(widths))


def stored_layer(layer: Layer, spec: LayerSpec) -> StoredLayer:
    """Return what an export stores of a layer that is quantized as `spec` says; both operands are quantized."""
    weights, adapter = spec.weights, spec.adapter
    assert weights is not None
    return StoredLayer(
        weights=layer.weights,
        code_bits=weights.code_bits,
        level_table=weights.level_table,
        weight_scales=weights.scale_count(layer.out_channels),
        biases=layer.biases,
        adapter_widths=() if adapter is None else adapter.widths(layer.in_channels),
        adapter_bits=32 if adapter is not None and adapter.bits == "float" else 8,
    )


def stored_cost(network: Network, specs: Iterable[LayerSpec]) -> StoredBytes:
    """Return what an export of `network` stores when its layers are quantized as `specs` say, one for each layer."""
    return stored_bytes(
        [stored_layer(layer, spec) for layer, spec in zip(network.layers, specs, strict=True)],
        batch_norm_channels=network.batch_norm_channels,
        float_parameters=network.float_parameters,
    )
