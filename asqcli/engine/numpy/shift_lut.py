"""The specification of a convolution: shifts, look-ups and additions, no multiplication (Eq. 18).

Eq. 18 writes a product with sqrt(2)^-W as a shift of A by W/2 where W is even, and as a look-up where it is odd.
A shift to the right would lose bits of a 4-bit A, so A is carried in units of the table's largest level L, as A * L,
looked up once for every pixel. Then, for a weight whose level has the magnitude m,

    A * m = (A * L) >> k     where m * 2^k = L, exactly;
    A * m = LUT_m[A]         for every other m;

for POST these are the even and the odd powers. The sign of the weight says whether the product is added or subtracted.
Every other kernel must give the accumulators of this one, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asqcli.engine.interface import Layer

LARGEST_PLANES = 2**24  # products held at one time


@dataclass(frozen=True)
class Magnitude:
    """How a code is multiplied by one magnitude of the level table.

    Attributes:
        shift: k where magnitude * 2^k is the largest level, else None.
        table: code - qmin to code * magnitude, int32, where there is no such k.
    """

    shift: int | None
    table: np.ndarray


@dataclass(frozen=True)
class PackedLayer:
    """Weights by output channel.

    Attributes:
        carry: code - qmin to code * L, int32.
        magnitudes: those that occur.
        index: for each weight that of its magnitude, (C_out, C_in / groups, height, width).
        sign: -1, 0 or 1, of the same shape.
    """

    carry: np.ndarray
    magnitudes: tuple[Magnitude, ...]
    index: np.ndarray
    sign: np.ndarray


class ShiftLutKernel:
    """Plain and readable, vectorised over pixels: seconds for an image of 224 pixels."""

    name = "shift-lut"

    def pack(self, layer: Layer) -> PackedLayer:
        weights = layer.weights.astype(np.int32)
        codes = np.arange(layer.qmin, layer.qmax + 1, dtype=np.int32)
        present = np.unique(np.abs(weights[weights != 0])) if weights.any() else np.ones(1, np.int32)
        largest = int(present[-1])
        magnitudes = tuple(_magnitude(int(m), largest, codes) for m in present)
        index = np.searchsorted(present, np.abs(weights)).astype(np.int32)
        return PackedLayer(codes * largest, magnitudes, np.minimum(index, len(present) - 1), np.sign(weights))

    def accumulate(self, codes: np.ndarray, layer: Layer, packed: PackedLayer) -> np.ndarray:
        top, left, bottom, right = layer.padding
        padded = np.pad(codes.astype(np.int32), ((0, 0), (0, 0), (top, bottom), (left, right)))
        return np.stack([self._convolve(image, layer, packed) for image in padded])

    def _convolve(self, image: np.ndarray, layer: Layer, packed: PackedLayer) -> np.ndarray:
        """Return the accumulators of one padded image, (C_out, H_out, W_out) int32; `image`: (C_in, H, W) int32."""
        height, width = layer.output_size(
            image.shape[1] - sum(layer.padding[::2]), image.shape[2] - sum(layer.padding[1::2])
        )
        out_channels, per_group = layer.weights.shape[:2]
        out = np.zeros((out_channels, height, width), np.int32)
        # Input channels and magnitudes at a time: as many as there is room for the products of.
        step = max(1, LARGEST_PLANES // (len(packed.magnitudes) * image[0].size))
        tables = max(1, LARGEST_PLANES // (step * image[0].size))
        for group in range(layer.groups):
            outputs = range(group * out_channels // layer.groups, (group + 1) * out_channels // layer.groups)
            for first in range(0, per_group, step):
                channels = slice(first, min(first + step, per_group))
                part = image[group * per_group :][channels]
                for table in range(0, len(packed.magnitudes), tables):
                    magnitudes = packed.magnitudes[table : table + tables]
                    products = np.stack([self._products(part, m, layer, packed) for m in magnitudes])
                    for o in outputs:
                        index = packed.index[o, channels] - table
                        sign = np.where((index >= 0) & (index < tables), packed.sign[o, channels], 0)
                        out[o] += self._sum(products, index, sign, layer, out[o].shape)
        return out

    @staticmethod
    def _products(image: np.ndarray, magnitude: Magnitude, layer: Layer, packed: PackedLayer) -> np.ndarray:
        """Return every code of the image times one magnitude, shape of `image`."""
        if magnitude.shift is not None:
            return packed.carry[image - layer.qmin] >> magnitude.shift
        return magnitude.table[image - layer.qmin]

    @staticmethod
    def _sum(
        products: np.ndarray, index: np.ndarray, sign: np.ndarray, layer: Layer, size: tuple[int, ...]
    ) -> np.ndarray:
        """Return one output channel: products added where the weight is above 0, subtracted where below.

        Args:
            products: (magnitudes, C, H, W); index, sign: (C, kernel height, kernel width).
        """
        total = np.zeros(size, np.int32)
        for i, j in np.ndindex(*layer.kernel_size):
            y, x = i * layer.dilation[0], j * layer.dilation[1]
            rows = slice(y, y + (size[0] - 1) * layer.stride[0] + 1, layer.stride[0])
            columns = slice(x, x + (size[1] - 1) * layer.stride[1] + 1, layer.stride[1])
            for wanted, accumulate in ((1, np.add), (-1, np.subtract)):
                channels = np.flatnonzero(sign[:, i, j] == wanted)
                terms = products[index[channels, i, j], channels, rows, columns]
                accumulate(total, terms.sum(axis=0, dtype=np.int32), out=total)
        return total


def _magnitude(magnitude: int, largest: int, codes: np.ndarray) -> Magnitude:
    ratio, rest = divmod(largest, magnitude)
    power_of_two = rest == 0 and ratio & (ratio - 1) == 0
    return Magnitude(ratio.bit_length() - 1 if power_of_two else None, codes * magnitude)
