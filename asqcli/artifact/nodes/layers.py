"""The quantized layers: codes of the input, integer weights, and what makes real numbers of their products."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from asqcli.arithmetic.constants import ADAPTER_LANES, EXACT_FLOAT32
from asqcli.artifact.nodes.base import (
    MEAN_PASSES,
    Borders,
    MixedIn,
    Node,
    Pair,
    Shape,
    Size,
    TensorName,
    TensorSpec,
    Windows,
    Work,
)
from asqcli.artifact.packing import packed_size, unpack
from asqcli.strict import Strict

LARGEST_ACCUMULATOR = 2**31 - 1
LARGEST_CODE = 255  # counted from qmin
LARGEST_LEVEL = 128
UNPACKED_AT_ONCE = 2**16  # codes, a multiple of 8: they begin at a whole byte

NARROW_PRODUCT = 64  # columns: a matrix product with fewer takes as long
DOUBLE_COST = 2  # cost of a multiply-add in double, in those in float32
PRODUCTS_AT_ONCE = 2**24  # numbers that an engine copies before a matrix product
SHORT_RUN = 4  # elementwise operations on copying a number that has few neighbours
QUANTIZE_PASSES = 4  # elementwise operations for each number quantized


class Weights(Strict):
    """Packed codes of a convolution (C_out, C_in / groups, height, width) or a linear layer (C_out, C_in)."""

    shape: Annotated[tuple[Size, ...], Field(min_length=2, max_length=4)]
    code_bits: Annotated[int, Field(ge=1, le=8)]
    codes: TensorName
    levels: TensorName
    scale: TensorName
    scale_per: Literal["channel", "tensor"]
    bias: TensorName | None

    def tensors(self) -> Iterator[TensorSpec]:
        """Yield what the weights name."""
        outputs = self.shape[0]
        yield TensorSpec(self.codes, "uint8", (packed_size(math.prod(self.shape), self.code_bits),), "codes")
        yield TensorSpec(self.levels, "int8", (2**self.code_bits,), "level_tables", shared=True)
        yield TensorSpec(
            self.scale, "float32", (outputs if self.scale_per == "channel" else 1,), account="weight_scales"
        )
        if self.bias is not None:
            yield TensorSpec(self.bias, "float32", (outputs,), "biases")

    def integers(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the integer weights, int8, of the shape `shape`."""
        packed, table, bits = tensors[self.codes], tensors[self.levels], self.code_bits
        levels = np.empty(math.prod(self.shape), np.int8)
        for first in range(0, len(levels), UNPACKED_AT_ONCE):
            part = levels[first : first + UNPACKED_AT_ONCE]
            part[:] = table[unpack(packed[first // 8 * bits :], bits, len(part))]
        return levels.reshape(self.shape)


class AdapterLayer(Strict):
    """One linear layer of an adapter; without a row scale its weights are float32."""

    outputs: Size
    weight: TensorName
    row_scale: TensorName | None
    bias: TensorName


class Adapter(Strict):
    """What makes beta from a layer's input."""

    layers: Annotated[tuple[AdapterLayer, ...], Field(min_length=1, max_length=2)]
    output: Literal["reciprocal", "relu"]

    def tensors(self, channels: int) -> Iterator[TensorSpec]:
        """Yield what the layers name; `channels`: of the input."""
        inputs = channels
        for layer in self.layers:
            if layer.row_scale is not None:
                yield TensorSpec(layer.row_scale, "float32", (layer.outputs,), "adapters")
            dtype = "float32" if layer.row_scale is None else "int8"
            yield TensorSpec(layer.weight, dtype, (layer.outputs, inputs), "adapters")
            yield TensorSpec(layer.bias, "float32", (layer.outputs,), "adapters")
            inputs = layer.outputs

    def work(self, x: Shape) -> Work:
        """Return what beta takes, the mean of the input apart."""
        work, inputs = Work(calls=max(x[1:], default=0)), x[0]
        for layer in self.layers:
            products = QUANTIZE_PASSES * (inputs + ADAPTER_LANES) * layer.outputs
            work += Work(elementwise=products, calls=2 * inputs // ADAPTER_LANES)
            inputs = layer.outputs
        return work


class Activations(Strict):
    """How a layer's input becomes codes."""

    qmin: Annotated[int, Field(ge=-255, le=0)]
    qmax: Annotated[int, Field(ge=0, le=255)]
    step_size: TensorName
    dequantize_by: Literal["adapted_step_size", "step_size"]
    adapter: Adapter | None

    @property
    def largest_code(self) -> int:
        """The largest magnitude of a code."""
        return max(-self.qmin, self.qmax)

    def tensors(self, channels: int) -> Iterator[TensorSpec]:
        """Yield what the quantizer names; `channels`: of the input."""
        yield TensorSpec(self.step_size, "float32", (1,), "step_sizes")
        if self.adapter is not None:
            yield from self.adapter.tensors(channels)


class QuantizedLayer(MixedIn):
    """What a convolution and a linear layer have in common."""

    if TYPE_CHECKING:
        activations: Activations
        weights: Weights
        groups: int

    def tensors(self, inputs: Sequence[Shape]) -> Iterator[TensorSpec]:
        yield from self.weights.tensors()
        yield from self.activations.tensors(inputs[0][0])

    def content_problem(self, tensors: Mapping[str, np.ndarray]) -> str | None:
        activations, adapter = self.activations, self.activations.adapter
        if not activations.qmin < activations.qmax <= activations.qmin + LARGEST_CODE:
            return f"`{self.name}` has the code range {activations.qmin} to {activations.qmax}"
        if tensors[activations.step_size][0] <= 0:
            return f"the step size of `{self.name}` is not above 0"
        if adapter is not None and adapter.layers[-1].outputs != 1:
            return f"the adapter of `{self.name}` gives more than one number"
        if self._can_overflow(tensors):
            return f"the accumulators of `{self.name}` can overflow 32 bits"
        return None

    def _can_overflow(self, tensors: Mapping[str, np.ndarray]) -> bool:
        # An engine may add up codes above qmin, which reach 255, and take the rest off later. Few are unpacked for it.
        table = np.abs(tensors[self.weights.levels].astype(np.int64))
        bound = math.prod(self.weights.shape[1:]) * int(table.max()) * LARGEST_CODE
        return (
            bound > LARGEST_ACCUMULATOR
            and largest_weight_sum(self.weights.integers(tensors)) * LARGEST_CODE > LARGEST_ACCUMULATOR
        )

    def work(self, inputs: Sequence[Shape], output: Shape) -> Work:
        (x,), made, window = inputs, math.prod(output), self.weights.shape[1:]
        read = max(math.prod(x), self.padded_size(x))
        work = Work(elementwise=(1 + QUANTIZE_PASSES) * (read + made), multiply_adds=made * math.prod(window))
        if self.activations.adapter is not None:
            work += Work(elementwise=MEAN_PASSES * read) + self.activations.adapter.work(x)
        return work + self._accumulation(made)

    def _accumulation(self, made: int) -> Work:
        """Return the work of the accumulators alone."""
        outputs, *window = self.weights.shape
        depth, taps = math.prod(window), math.prod(window[1:])
        if self.groups > 1 and window[0] == 1:  # no matrix product, but a product of images for each tap
            return Work(elementwise=3 * made * taps, calls=16 + 4 * taps)
        factor = DOUBLE_COST if self.activations.largest_code * LARGEST_LEVEL * depth >= EXACT_FLOAT32 else 1
        patches = made // outputs * depth * self.groups  # copied before the product, in runs of a pixel's channels
        return Work(
            products=patches * max(outputs // self.groups, NARROW_PRODUCT) * factor,
            elementwise=patches + SHORT_RUN * patches // window[0],
            calls=16 + 4 * self.groups + patches // PRODUCTS_AT_ONCE,
        )


def largest_weight_sum(levels: np.ndarray) -> int:
    """Return max_c sum |w| of integer weights, (C_out, ..)."""
    magnitudes = np.abs(levels.astype(np.int16)).reshape(len(levels), -1)
    return int(magnitudes.sum(axis=1, dtype=np.int64).max())


class Conv(QuantizedLayer, Node):
    op: Literal["conv"] = "conv"
    activations: Activations
    weights: Weights
    stride: Pair
    padding: Borders
    dilation: Pair
    groups: Size

    @property
    def windows(self) -> Windows:
        kernel_size = self.weights.shape[2:]
        return Windows(kernel_size, self.stride, self.padding, self.dilation)  # pyright: ignore[reportArgumentType]

    def problem(self, inputs: Sequence[Shape]) -> str | None:
        x, (outputs, per_group, *kernel_size) = inputs[0], self.weights.shape
        if len(x) != 3 or len(kernel_size) != 2:
            return "a convolution needs (channels, height, width) and weights of four dimensions"
        if per_group * self.groups != x[0] or outputs % self.groups:
            return f"weights {self.weights.shape} in {self.groups} groups"
        return None if self.windows.fit(x) else "the kernel is larger than the padded image"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (self.weights.shape[0], *self.windows.count(inputs[0]))


class Linear(QuantizedLayer, Node):
    op: Literal["linear"] = "linear"
    activations: Activations
    weights: Weights
    groups: ClassVar[int] = 1  # pyright: ignore[reportIncompatibleVariableOverride]  # a document has it for Conv alone

    def problem(self, inputs: Sequence[Shape]) -> str | None:
        (x,), shape = inputs, self.weights.shape
        return f"weights {shape}" if len(x) != 1 or len(shape) != 2 or shape[1] != x[0] else None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (self.weights.shape[0],)
