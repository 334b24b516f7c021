"""Layers with fake quantizers in training and the integer engine's arithmetic in evaluation.

In evaluation a layer convolves whole numbers held in float32, which is exact while every partial sum stays below 2^24
(checked; float64 above). What follows is a fixed sequence of separately rounded float32 operations, so that an integer
engine can give the same logits to the last bit, and so that a sample's result does not depend on its batch:

    v = accumulator * (adapted_step_size * weight_scale[c])       v = v + bias[c]
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from asqcli.arithmetic.constants import EXACT_FLOAT32
from asqcli.nn.geometry import Geometry
from asqcli.nn.held_weights import held
from asqcli.nn.products import images
from asqcli.nn.products.product import product
from asqcli.quant.activation_quantizers import ActivationQuantizer
from asqcli.quant.bfloat16 import as_operand, as_result
from asqcli.quant.fake_quant import Codes, computed_again
from asqcli.quant.weight_quantizers import WeightQuantizer


class _Computes(Protocol):
    """A layer whose arithmetic is asq's own."""

    def compute(self, input: Tensor, *geometry: Geometry) -> Tensor: ...


def quantized_layer(layer: _Computes, input: Tensor, *geometry: Geometry) -> Tensor:
    """Return what a layer makes of its input; a function of torch, so that a mode can see it as one.

    Args:
        geometry: of a convolution; without it that of the layer's own attributes.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(quantized_layer, (input,), layer, input, *geometry)
    return without_autocast(lambda x: layer.compute(x, *geometry), input)


def without_autocast(function: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    """Return `function(input)` in no type below float32, in which codes are not exact, autocast or not."""
    kind = input.device.type
    if input.dtype in (torch.bfloat16, torch.float16):
        input = input.float()
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return function(input)
    with torch.autocast(kind, enabled=False):
        return function(input)


if TYPE_CHECKING:
    MixedIn = nn.Module  # always mixed into one
else:
    MixedIn = object


class _QuantLayer(MixedIn):
    """What QuantConv2d and QuantLinear share; mixed into nn.Conv2d and nn.Linear.

    Either quantizer may be None: that operand stays in float, and evaluation is then plain float arithmetic.
    """

    if TYPE_CHECKING:
        weight: Tensor
        bias: Tensor | None

        def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor: ...
        @staticmethod
        def _over_channels(per_channel: Tensor) -> Tensor: ...

    weight_quantizer: WeightQuantizer | None
    activation_quantizer: ActivationQuantizer | None
    # Called with codes and accumulators in evaluation, by whoever compares them with the engine's.
    observe: Callable[[Tensor, Tensor], None] | None = None

    def forward(self, input: Tensor) -> Tensor:
        return quantized_layer(self, input)

    def compute(self, input: Tensor, *geometry: Geometry) -> Tensor:
        """Return the product of the quantized operands, with the bias."""
        if self.training or self.weight_quantizer is None or self.activation_quantizer is None:
            return self._forward_fake(input, *geometry)
        return self._forward_integer(input, self.activation_quantizer, *geometry)

    def compute_in_float(self, input: Tensor, *geometry: Geometry) -> Tensor:
        """Return what the float layer gives: for who looks at shapes."""
        return self._product(input, self.weight, self.bias, *geometry)

    def compute_in_bfloat16(self, input: Tensor, dtype: torch.dtype, *geometry: Geometry) -> Tensor:
        """Return what `compute` does in training, in bfloat16, by a product of codes and levels in its precision.

        Args:
            input: float32 or bfloat16.
            dtype: that codes and levels are handed over in, one of `asqcli.quant.bfloat16.MULTIPLIED`.
        """
        of_samples = of_channels = None
        if self.weight_quantizer is None:
            weight = as_operand(self.weight, None, dtype)
        else:
            weight = self.weight_quantizer.fake_quantize(self.weight, result=Codes(dtype))
            of_channels = self._over_channels(self.weight_quantizer.scale)
        if self.activation_quantizer is None:
            product = self._product(as_operand(input, None, dtype), weight, None, *geometry)
        else:
            product, of_samples = self._product_of_codes(input, weight, self.activation_quantizer, *geometry)
        y = as_result(product, of_samples, of_channels)
        return y if self.bias is None else y + self._over_channels(self.bias).to(y.dtype)

    def _product_of_codes(
        self, input: Tensor, weight: Tensor, quantizer: ActivationQuantizer, *geometry: Geometry
    ) -> tuple[Tensor, Tensor]:
        """Return the product of the input's codes and `weight`, and the real value of code 1."""
        codes, scale = quantizer.operand(input, weight.dtype)
        return self._product(codes, weight, None, *geometry), scale

    def _forward_fake(self, x: Tensor, *geometry: Geometry) -> Tensor:
        if self.training and (y := self._compiled_product(x, *geometry)) is not None:
            return y
        x_hat = x if self.activation_quantizer is None else self.activation_quantizer(x)
        weight = self.weight if self.weight_quantizer is None else self.weight_quantizer(self.weight)
        with computed_again(x_hat):
            return self._product(x_hat, weight, self.bias, *geometry)

    def _compiled_product(self, x: Tensor, *geometry: Geometry) -> Tensor | None:
        """Return `_forward_fake` by compiled passes; None where they cannot compute it, or not faster."""
        return None

    def _forward_integer(self, x: Tensor, quantizer: ActivationQuantizer, *geometry: Geometry) -> Tensor:
        codes, activation_scale = quantizer.quantize(x)
        levels, weight_scale, largest_row = self.integer_weight()
        accumulator = self._accumulate(codes, levels, quantizer.largest_code * largest_row, *geometry)
        if self.observe is not None:
            self.observe(codes, accumulator)
        v = accumulator.to(codes.dtype) * (activation_scale * self._over_channels(weight_scale))
        return v if self.bias is None else v + self._over_channels(self.bias)

    def integer_weight(self) -> tuple[Tensor, Tensor, float]:
        """Return (levels, weight_scale, the largest sum of the levels' magnitudes over an output channel)."""
        quantizer = self.weight_quantizer
        assert quantizer is not None

        def quantized() -> tuple[Tensor, Tensor, float]:
            levels, scale = quantizer.to_levels(self.weight)
            return levels, scale, levels.double().abs().flatten(1).sum(dim=1).max().item()

        return held(self, [self.weight, *quantizer.parameters()], quantized)

    def _accumulate(self, codes: Tensor, levels: Tensor, largest_sum: float, *geometry: Geometry) -> Tensor:
        """Return the integer accumulators, in the dtype of `codes` or, where that cannot hold them, in float64."""
        if largest_sum < EXACT_FLOAT32:
            accumulator = self._product(codes, levels, None, *geometry)
        else:
            accumulator = self._product(codes.double(), levels.double(), None, *geometry)
        # A GPU may convolve by transforms that leave a fraction; the sum of whole numbers is a whole number.
        whole = self.weight_quantizer is not None and self.weight_quantizer.integer
        return accumulator.round() if accumulator.is_cuda and whole else accumulator


Twin = TypeVar("Twin", bound=nn.Module)
Quantized = TypeVar("Quantized", bound=_QuantLayer)


class QuantConv2d(_QuantLayer, nn.Conv2d):
    """A convolution whose weight and input are quantized. Parameters keep the names of nn.Conv2d."""

    @classmethod
    def from_float(
        cls,
        layer: nn.Conv2d,
        weight_quantizer: WeightQuantizer | None,
        activation_quantizer: ActivationQuantizer | None,
    ) -> QuantConv2d:
        """Return a quantized twin of `layer` that shares its parameters and hooks."""
        return _with_quantizers(as_class(cls, layer), weight_quantizer, activation_quantizer)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Geometry) -> Tensor:
        if not geometry:
            return self._conv_forward(x, weight, bias)
        [g] = geometry
        return F.conv2d(x, weight, bias, g.stride, g.padding, g.dilation, g.groups)

    def _compiled_product(self, x: Tensor, *geometry: Geometry) -> Tensor | None:
        if self.padding_mode != "zeros":
            return None
        [g] = geometry or [Geometry.of(self)]
        return product(x, self.weight, self.bias, g, self.activation_quantizer, self.weight_quantizer)

    def _product_of_codes(
        self, input: Tensor, weight: Tensor, quantizer: ActivationQuantizer, *geometry: Geometry
    ) -> tuple[Tensor, Tensor]:
        [g] = geometry or [Geometry.of(self)]
        if self.padding_mode == "zeros" and images.fits(input, quantizer, g):
            return images.product(input, quantizer, weight, g), quantizer.scale_parameter
        return super()._product_of_codes(input, weight, quantizer, *geometry)

    @staticmethod
    def _over_channels(per_channel: Tensor) -> Tensor:
        return per_channel.reshape(-1, *[1] * 2)


class QuantLinear(_QuantLayer, nn.Linear):
    """A linear layer whose weight and input are quantized. Parameters keep the names of nn.Linear."""

    @classmethod
    def from_float(
        cls,
        layer: nn.Linear,
        weight_quantizer: WeightQuantizer | None,
        activation_quantizer: ActivationQuantizer | None,
    ) -> QuantLinear:
        """Return a quantized twin of `layer` that shares its parameters and hooks."""
        return _with_quantizers(as_class(cls, layer), weight_quantizer, activation_quantizer)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @staticmethod
    def _over_channels(per_channel: Tensor) -> Tensor:
        return per_channel


def as_class(kind: type[Twin], layer: nn.Module) -> Twin:
    """Return `layer` as another class: its parameters, its hooks, and whatever else was given to it."""
    twin = object.__new__(kind)
    vars(twin).update(vars(layer))
    for container in ("_parameters", "_buffers", "_modules"):
        vars(twin)[container] = copy.copy(vars(layer)[container])
    vars(twin).pop("_compiled_call_impl", None)  # which would go on calling `layer`
    return twin


def _with_quantizers(
    twin: Quantized, weight_quantizer: WeightQuantizer | None, activation_quantizer: ActivationQuantizer | None
) -> Quantized:
    twin.weight_quantizer, twin.activation_quantizer = weight_quantizer, activation_quantizer
    twin.train(twin.training)
    return twin
