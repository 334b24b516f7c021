"""Operations by kind, for hardware without multipliers: what the weights' levels make of each product (Eq. 18).

An activation is carried in units of the level table's largest level. A level that is this one divided by a power of two
is a shift, every other level a look-up in a table of (level, activation): for POST, the even and the odd powers of the
square root of two. Uniform weights are multiplied.

Weights are not known before training, so their frequencies are supposed: no weight is zero (each that is saves its
product), and all levels of a set are equally frequent. The first and the last layer have uniform 8-bit weights.

Nothing here says anything about a processor that multiplies in one cycle, where a shift saves no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import get_args

from asqcli.overhead.adapters import adapter_products, adapter_widths
from asqcli.overhead.count import Network
from asqcli.overhead.published import multiply_adds
from asqcli.quant.levels import MAX_POWER_BITS
from asqcli.quant.spec import AnyLevelWeights

UNIFORM = "uniform"
WITH_LEVELS: tuple[type[AnyLevelWeights], ...] = get_args(AnyLevelWeights)


@dataclass(frozen=True)
class Operations:
    """Integer operations of all quantized layers, for one image."""

    shifts: int
    look_ups: int
    multiplications: int
    additions: int


@dataclass(frozen=True)
class FloatOperations:
    """What comes beside the integer products, at every bit-width and with all weights, for one image.

    Attributes:
        adapter_multiplications, adapter_additions: average pools, linear layers, scales of rows, beta times step.
        epilogue_multiplications, epilogue_additions: inputs by the step's reciprocal, accumulators by their scale,
            biases, batch norms.
    """

    adapter_multiplications: int
    adapter_additions: int
    epilogue_multiplications: int
    epilogue_additions: int


def weight_operations(network: Network, bits: int) -> dict[str, Operations]:
    """Return the operations with each kind of weights that exists at `bits` bits."""
    at_ends, in_middle = multiply_adds(network.ends), multiply_adds(network.middle)
    kinds = {UNIFORM: Operations(0, 0, at_ends + in_middle, at_ends + in_middle)}
    if bits > MAX_POWER_BITS:
        return kinds
    powers: dict[str, Operations] = {}
    for spec in (kind(bits=bits) for kind in WITH_LEVELS):
        shifts = round(in_middle * shift_share(spec.level_set.magnitudes))
        powers[spec.quantizer] = Operations(shifts, in_middle - shifts, at_ends, at_ends + in_middle)
    return powers | kinds


def shift_share(magnitudes: tuple[float, ...]) -> Fraction:
    """Return the share of the levels, zero apart, that are shifts of the largest; magnitudes largest first.

    >>> shift_share((96, 68, 48, 34, 24, 17, 12)), shift_share((4, 2, 1)), shift_share((10, 8, 6, 4, 3, 2, 1))
    (Fraction(4, 7), Fraction(1, 1), Fraction(1, 7))
    """
    ratios = [Fraction(magnitudes[0]) / Fraction(m) for m in magnitudes]
    return Fraction(sum(_is_power_of_two(ratio) for ratio in ratios), len(ratios))


def _is_power_of_two(ratio: Fraction) -> bool:
    return ratio.denominator == 1 and ratio.numerator.bit_count() == 1


def float_operations(network: Network) -> FloatOperations:
    """Return what adapters and epilogues compute. Two divisions for each adapter, and ReLUs, are left out."""
    adapter_multiplications = adapter_additions = 0
    for layer in network.middle:
        products, rows = adapter_products(layer), sum(adapter_widths(layer)[1:])
        means = layer.in_channels if layer.input_values > layer.calls * layer.in_channels else 0
        adapter_multiplications += layer.calls * (means + products + rows + 1)
        adapter_additions += layer.calls * (products + rows) + (layer.input_values if means else 0)
    with_biases = sum(layer.output_values for layer in network.layers if layer.biases)
    values = sum(layer.input_values + layer.output_values for layer in network.layers)
    return FloatOperations(
        adapter_multiplications=adapter_multiplications,
        adapter_additions=adapter_additions,
        epilogue_multiplications=values + network.batch_norm_values,
        epilogue_additions=with_biases + network.batch_norm_values,
    )
