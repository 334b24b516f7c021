"""The paper's account of what the adapters add (Eqs. 10-16), which gives its Table 1.

The paper does not say what it counts. This reading, found by trying what could be meant, gives all eight figures of
Table 1 for ResNet-18:

    param    adapters of ratio 4 on every layer but the first and the last, biases included; one weight step for each of
             these layers' output channels and one activation step for each layer; all at 8 bits
             over all parameters of the network, at B bits (Eq. 14)
    compute  multiplications and additions of the adapters' linear layers, at 8 bits (Eq. 15)
             over the multiply-adds of those layers (Eqs. 12 and 13), each as one operation, at B bits (Eqs. 15 and 16)

So it puts all parameters at B bits, first layer, last layer, biases and batch norms too, counts two operations for a
multiply-add of an adapter and one for a multiply-add of a layer, and leaves the adapters' average pools out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asqcli.overhead.adapters import adapter_parameters, adapter_products
from asqcli.overhead.count import Layer, Network

ADAPTER_BITS, FLOAT_BITS = 8, 32


@dataclass(frozen=True)
class PublishedCost:
    """The paper's account at one bit-width.

    Attributes:
        network_bytes: all parameters at B bits.
        adapter_bytes: of adapters and steps at 8 bits.
        network_operations: equivalent 32-bit operations of the layers that have adapters.
        adapter_operations: the same, of their adapters.
    """

    network_bytes: float
    adapter_bytes: float
    network_operations: float
    adapter_operations: float

    @property
    def param_percent(self) -> float:
        return percent(self.adapter_bytes, self.network_bytes)

    @property
    def compute_percent(self) -> float:
        return percent(self.adapter_operations, self.network_operations)


def published_cost(network: Network, bits: int) -> PublishedCost:
    """Return the paper's account of `network` at `bits` bits."""
    added = sum(adapter_parameters(layer) + layer.out_channels + 1 for layer in network.middle)
    operations = sum(2 * adapter_products(layer) * layer.calls for layer in network.middle)
    return PublishedCost(
        network_bytes=quantized_bytes(network.parameters, bits),
        adapter_bytes=quantized_bytes(added, ADAPTER_BITS),
        network_operations=equivalent_operations(multiply_adds(network.middle), bits),
        adapter_operations=equivalent_operations(operations, ADAPTER_BITS),
    )


def quantized_bytes(parameters: int, bits: int) -> float:
    """Return what parameters take at `bits` bits, in bytes (Eq. 14)."""
    return parameters * bits / 8


def equivalent_operations(operations: int, bits: int) -> float:
    """Return operations on `bits` bits as operations on 32 (Eqs. 15 and 16, for any width).

    >>> equivalent_operations(800, 8), equivalent_operations(800, 4)
    (200.0, 100.0)
    """
    return operations * bits / FLOAT_BITS


def multiply_adds(layers: Sequence[Layer]) -> int:
    """Return the multiply-adds of several layers."""
    return sum(layer.multiply_adds for layer in layers)


def percent(part: float, whole: float) -> float:
    """Return `part` in percent of `whole`; of nothing, 0."""
    return 100 * part / whole if whole else 0.0
