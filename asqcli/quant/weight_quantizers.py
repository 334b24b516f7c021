"""The modules that hold a layer's weight quantizer: uniform, or by a level set."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from asqcli.arithmetic.division import divided
from asqcli.quant.bounds import integer_bounds
from asqcli.quant.fake_quant import VALUES, Result, fake_quantize, fake_quantize_to_levels, gradient_scale
from asqcli.quant.rounding import nearest_level, quantize, quantize_to_levels
from asqcli.quant.spec import AnyWeightSpec, ApotWeights, LevelWeights, UniformWeights, WeightSpec
from asqcli.quant.step_size import SMALLEST_STEP, least_squares_start, lsq_start

START_SAMPLES, START_SAMPLES_PER_ROW = 2**16, 2**10


class WeightQuantizer(nn.Module, ABC):
    """What both weight quantizers promise.

    Weights of shape (C_out, ..) share one scale parameter per output channel, or one per tensor.

    Args:
        channels: C_out.
        spec: bits, levels, and what shares a scale.
    """

    smallest_scale = SMALLEST_STEP

    def __init__(self, channels: int, spec: WeightSpec) -> None:
        super().__init__()
        self.spec = spec
        self.scale_parameter_shape = (spec.scale_count(channels),)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the fake-quantized weight, shape of `weight`, real units."""
        return self.fake_quantize(weight)

    @abstractmethod
    def fake_quantize(self, weight: Tensor, *, result: Result = VALUES) -> Tensor:
        """Return `forward(weight)`, or its levels for a product in bfloat16: where they are `integer`."""

    @property
    @abstractmethod
    def scale(self) -> Tensor:
        """The real value of level 1, (C_out,) or (1,)."""

    @abstractmethod
    def to_levels(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return levels (table entries, shape of `weight`) and weight_scale ((C_out,) or (1,), real units)."""

    @abstractmethod
    def nearest_level(self, levels: Tensor) -> Tensor:
        """Return the entry of the level table nearest to each value, which is in units of the table."""

    @abstractmethod
    def start(self, weight: Tensor, method: str) -> None:
        """Set the scale parameter from the weights; `method` is "mse" or "lsq"."""

    @property
    @abstractmethod
    def scale_parameter(self) -> nn.Parameter:
        """The step sizes or clipping thresholds, (C_out,) or (1,); above 0."""

    @torch.no_grad()
    def before_rounding(self, weight: Tensor) -> Tensor:
        """Return what `to_levels` rounds: the weight in units of the level table, shape of `weight`."""
        _, scale = self.to_levels(weight)
        return self._normalized(weight) / self._over_channels(scale, weight)

    @property
    def integer(self) -> bool:
        """Are all levels integers, so that an integer engine can run them?"""
        return True

    @property
    @abstractmethod
    def largest_level(self) -> float:
        """The largest magnitude of a level."""

    def _normalized(self, weight: Tensor) -> Tensor:
        return weight

    def extra_repr(self) -> str:
        return str(self.spec)

    def _sampled_rows(self, weight: Tensor) -> Tensor:
        """Return `_rows`, long ones sampled at the same places for every call: enough for a start."""
        rows = self._rows(weight)
        count = max(START_SAMPLES // rows.shape[0], START_SAMPLES_PER_ROW)
        if rows.shape[1] <= count:
            return rows
        return rows[:, torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(0))[:count]]

    def _rows(self, weight: Tensor) -> Tensor:
        """View the weights that share a scale parameter as the rows of a matrix."""
        return weight.reshape(self.scale_parameter_shape[0], -1)

    def _sharing(self, weight: Tensor) -> int:
        """Return how many weights share a scale parameter."""
        return weight.numel() // self.scale_parameter_shape[0]

    @staticmethod
    def _over_channels(parameter: Tensor, weight: Tensor) -> Tensor:
        """Shape a (C_out,) or (1,) parameter so that it broadcasts over `weight`."""
        return parameter.reshape(-1, *[1] * (weight.dim() - 1))


class UniformWeightQuantizer(WeightQuantizer):
    """LSQ weights: whole numbers of a learned step size, in two's complement."""

    def __init__(self, channels: int, spec: UniformWeights) -> None:
        super().__init__(channels, spec)
        self.qmin, self.qmax = integer_bounds(spec.bits, signed=True)
        self.step_size = nn.Parameter(torch.ones(self.scale_parameter_shape))

    def fake_quantize(self, weight: Tensor, *, result: Result = VALUES) -> Tensor:
        return fake_quantize(
            weight,
            self._over_channels(self.step_size, weight),
            qmin=self.qmin,
            qmax=self.qmax,
            step_gradient_scale=gradient_scale(self._sharing(weight), self.qmax),
            result=result,
        )

    @property
    def scale_parameter(self) -> nn.Parameter:
        return self.step_size

    @property
    def scale(self) -> Tensor:
        return self.step_size

    @property
    def largest_level(self) -> float:
        return -self.qmin

    def to_levels(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        step_size = self._over_channels(self.step_size, weight)
        return quantize(weight, step_size, qmin=self.qmin, qmax=self.qmax), self.step_size

    def nearest_level(self, levels: Tensor) -> Tensor:
        return levels.round().clamp(self.qmin, self.qmax)

    @torch.no_grad()
    def start(self, weight: Tensor, method: str) -> None:
        rows = self._sampled_rows(weight)
        if method == "lsq":
            self.step_size.copy_(lsq_start(rows, self.qmax))
            return
        # The negative bound is one step wider, so the range that a threshold can mean is taken from it.
        threshold = least_squares_start(
            rows, lambda x, t: fake_quantize(x, t / -self.qmin, qmin=self.qmin, qmax=self.qmax)
        )
        self.step_size.copy_(threshold / -self.qmin)


class LevelWeightQuantizer(WeightQuantizer):
    """POST, POT or APoT weights: entries of a level table times a learned clipping threshold.

    Attributes:
        normalize: subtract the mean of the layer's weights and divide by their standard deviation first (APoT's
            weight normalisation).
    """

    def __init__(self, channels: int, spec: LevelWeights) -> None:
        super().__init__(channels, spec)
        self.level_set = spec.level_set
        self.normalize = isinstance(spec, ApotWeights) and spec.normalize
        self.clipping_threshold = nn.Parameter(torch.ones(self.scale_parameter_shape))

    def fake_quantize(self, weight: Tensor, *, result: Result = VALUES) -> Tensor:
        weight = self._normalized(weight)
        return fake_quantize_to_levels(
            weight,
            self._over_channels(self.clipping_threshold, weight),
            self.level_set,
            threshold_gradient_scale=gradient_scale(self._sharing(weight), len(self.level_set.magnitudes)),
            result=result,
        )

    @property
    def scale_parameter(self) -> nn.Parameter:
        return self.clipping_threshold

    @property
    def scale(self) -> Tensor:
        return divided(self.clipping_threshold, self.level_set.largest)

    def to_levels(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        weight = self._normalized(weight)
        threshold = self._over_channels(self.clipping_threshold, weight)
        levels, scale = quantize_to_levels(weight, threshold, self.level_set)
        return levels, scale.flatten()

    def nearest_level(self, levels: Tensor) -> Tensor:
        return nearest_level(levels, self.level_set)

    @torch.no_grad()
    def start(self, weight: Tensor, method: str) -> None:
        # LSQ's rule is made for uniform steps; a threshold always starts at the least squared error.
        rows = self._sampled_rows(self._normalized(weight))
        self.clipping_threshold.copy_(
            least_squares_start(rows, lambda x, t: fake_quantize_to_levels(x, t, self.level_set))
        )

    @property
    def integer(self) -> bool:
        return self.level_set.integer

    @property
    def largest_level(self) -> float:
        return self.level_set.largest

    def _normalized(self, weight: Tensor) -> Tensor:
        return (weight - weight.mean()) / weight.std() if self.normalize else weight


def make_weight_quantizer(channels: int, spec: AnyWeightSpec) -> WeightQuantizer:
    """Return the quantizer that `spec` describes, for weights of `channels` output channels."""
    if isinstance(spec, UniformWeights):
        return UniformWeightQuantizer(channels, spec)
    return LevelWeightQuantizer(channels, spec)
