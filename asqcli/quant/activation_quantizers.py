"""The modules that hold a layer's activation quantizer: LSQ and ASQ, PACT, LSQ+."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from asqcli.arithmetic.division import divided
from asqcli.quant.adapter import Adapter
from asqcli.quant.baselines import fake_quantize_offset, fake_quantize_pact, zero_point
from asqcli.quant.bfloat16 import as_operand
from asqcli.quant.bounds import integer_bounds
from asqcli.quant.fake_quant import VALUES, Codes, Result, fake_quantize, fake_quantize_adapted, gradient_scale
from asqcli.quant.kernels import dispatch
from asqcli.quant.rounding import quantize
from asqcli.quant.spec import ActivationSpec, AsqActivations, LsqActivations, OffsetActivations, PactActivations
from asqcli.quant.step_size import SMALLEST_STEP, least_squares_start, lsq_start

MOST_LOST = 0.75  # share of the values other than 0 that a starting step may round to 0


class ActivationQuantizer(nn.Module, ABC):
    """What every activation quantizer promises.

    Attributes:
        spec: bits and options.
        signed: can the input be negative?
        largest_code: bound of the magnitude of what `quantize` returns.
        adapter: what adapts the step size to each sample, in ASQ.
        smallest_scale: that `scale_parameter` is held above.
    """

    largest_code: int
    smallest_scale = SMALLEST_STEP

    def __init__(self, spec: ActivationSpec, *, signed: bool, adapter: Adapter | None = None) -> None:
        super().__init__()
        self.spec, self.signed, self.adapter = spec, signed, adapter

    def extra_repr(self) -> str:
        return f"{self.spec}, {'signed' if self.signed else 'unsigned'}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the fake-quantized `x`, real units. `x`: (N, C, H, W), or (N, .., C) for a Linear layer."""
        return self.fake_quantize(x)[0]

    @abstractmethod
    def fake_quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `forward(x)`, and the real value of code 1: () or (N, 1, .., 1)."""

    def operand(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the codes of `x` for a product in bfloat16, as `dtype`, and the real value of code 1.

        Args:
            x: float32 or bfloat16.
        """
        x_hat, scale = self.fake_quantize(x.float())
        return as_operand(x_hat, scale, dtype), scale

    @abstractmethod
    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (codes, scale): whole numbers, shape of `x`; and () or (N, 1, .., 1), the real value of code 1."""

    @abstractmethod
    def integer_form(self) -> tuple[int, int, Tensor]:
        """Return (qmin, qmax, step_size): codes are clamp(round(x / step), qmin, qmax), for the step of each sample."""

    @abstractmethod
    def start(self, samples: Tensor, method: str) -> None:
        """Set the parameters from activations, any shape; `method` is "mse" or "lsq"."""

    @property
    @abstractmethod
    def scale_parameter(self) -> nn.Parameter:
        """The step size or clipping threshold, (); above 0."""


class StepSizeQuantizer(ActivationQuantizer):
    """LSQ, or ASQ when it holds an adapter: codes times one step size, adapted to each sample.

    Attributes:
        dequantizes_as_printed: codes become values by the step size, Eq. 6 as printed; otherwise by the adapted step
            size, which is what Eq. 7 is the gradient of.
    """

    def __init__(self, spec: LsqActivations | AsqActivations, *, signed: bool, adapter: Adapter | None = None) -> None:
        super().__init__(spec, signed=signed, adapter=adapter)
        self.qmin, self.qmax = integer_bounds(spec.bits, signed=signed)
        self.largest_code = max(-self.qmin, self.qmax)
        self.step_size = nn.Parameter(torch.ones(()))
        self.dequantizes_as_printed = isinstance(spec, AsqActivations) and spec.dequantize_by == "step_size"

    def fake_quantize(self, x: Tensor, *, result: Result = VALUES) -> tuple[Tensor, Tensor]:
        """See the base class.

        Args:
            result: what to return of it; a stand-in where `leaves_rounding`, codes unless `dequantizes_as_printed`.
        """
        assert result == VALUES or not self.dequantizes_as_printed
        qmin, qmax, scale = self.qmin, self.qmax, gradient_scale(x.shape[1:].numel(), self.qmax)
        if self.adapter is None:
            x_hat = fake_quantize(x, self.step_size, qmin=qmin, qmax=qmax, step_gradient_scale=scale, result=result)
            return x_hat, self.step_size
        if self._is_one_pass(x):
            return fake_quantize_adapted(
                x,
                self.step_size,
                [(layer.weight, layer.bias) for layer in self.adapter.linears],
                self.adapter.rounded,
                qmin=qmin,
                qmax=qmax,
                step_gradient_scale=scale,
                channels_last=self.adapter.channels_last,
                result=result,
            )
        beta = self.adapter(x)
        x_hat = fake_quantize(x, self.step_size, beta, qmin=qmin, qmax=qmax, step_gradient_scale=scale, result=result)
        return (
            (x_hat / beta, self.step_size) if self.dequantizes_as_printed else (x_hat, self.step_size * beta.detach())
        )

    def operand(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if self.dequantizes_as_printed:
            return super().operand(x, dtype)
        rounds_bfloat16 = self.adapter is None or self._is_one_pass(x)
        return self.fake_quantize(x if rounds_bfloat16 else x.float(), result=Codes(dtype))

    def leaves_rounding(self, x: Tensor) -> bool:
        """May somebody else round `x` by the step sizes that `fake_quantize` returns?"""
        return x.is_cpu and (self.adapter is None or self._is_one_pass(x))

    def _is_one_pass(self, x: Tensor) -> bool:
        """Can the adapter work in the same pass as the rounding?"""
        usual = self.adapter is not None and self.adapter.spec.output == "reciprocal"
        return usual and self.training and not self.dequantizes_as_printed and dispatch.adapts(x, self.step_size)

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.adapter is None:
            return quantize(x, self.step_size, qmin=self.qmin, qmax=self.qmax), self.step_size
        adapted_step_size = self.step_size * self.adapter(x)
        codes = quantize(x, adapted_step_size, qmin=self.qmin, qmax=self.qmax)
        return codes, self.step_size if self.dequantizes_as_printed else adapted_step_size

    def integer_form(self) -> tuple[int, int, Tensor]:
        return self.qmin, self.qmax, self.step_size

    @torch.no_grad()
    def start(self, samples: Tensor, method: str) -> None:
        self.step_size.copy_(start_step_size(samples, self.qmin, self.qmax, method))

    @property
    def scale_parameter(self) -> nn.Parameter:
        return self.step_size


class PactQuantizer(ActivationQuantizer):
    """PACT: codes times a `qmax`-th of one learned clipping threshold.

    For inputs that can be negative the range is symmetric, one code unused.
    """

    def __init__(self, spec: PactActivations, *, signed: bool) -> None:
        super().__init__(spec, signed=signed)
        self.qmax = self.largest_code = integer_bounds(spec.bits, signed=signed)[1]
        self.qmin = -self.qmax if signed else 0
        self.smallest_scale = SMALLEST_STEP * self.qmax
        self.clipping_threshold = nn.Parameter(torch.ones(()))

    def fake_quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        qmin, qmax, step_size = self.integer_form()
        return fake_quantize_pact(x, self.clipping_threshold, qmin=qmin, qmax=qmax), step_size

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        qmin, qmax, step_size = self.integer_form()
        return quantize(x, step_size, qmin=qmin, qmax=qmax), step_size

    def integer_form(self) -> tuple[int, int, Tensor]:
        return self.qmin, self.qmax, divided(self.clipping_threshold, self.qmax)

    @torch.no_grad()
    def start(self, samples: Tensor, method: str) -> None:
        self.clipping_threshold.copy_(start_step_size(samples, self.qmin, self.qmax, method) * self.qmax)

    @property
    def scale_parameter(self) -> nn.Parameter:
        return self.clipping_threshold


class OffsetQuantizer(ActivationQuantizer):
    """LSQ+: steps counted from a learned offset, for ranges that are neither one-sided nor symmetric.

    The offset is a whole number of steps, so that codes minus zero point are integers with 0 among them. For inputs
    that cannot be negative it starts at 0.
    """

    def __init__(self, spec: OffsetActivations, *, signed: bool) -> None:
        super().__init__(spec, signed=signed)
        self.qmax = self.largest_code = integer_bounds(spec.bits, signed=False)[1]
        self.step_size = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def fake_quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale = gradient_scale(x.shape[1:].numel(), self.qmax)
        x_hat = fake_quantize_offset(x, self.step_size, self.offset, qmax=self.qmax, gradient_scale=scale)
        return x_hat, self.step_size

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (codes minus zero point, step size); see the base class."""
        zero = zero_point(self.step_size, self.offset, self.qmax)
        codes = (x * (1.0 / self.step_size)).round_().add_(zero).clamp_(0, self.qmax)
        return codes.sub_(zero), self.step_size

    def integer_form(self) -> tuple[int, int, Tensor]:
        zero = int(zero_point(self.step_size, self.offset, self.qmax))
        return -zero, self.qmax - zero, self.step_size

    @torch.no_grad()
    def start(self, samples: Tensor, method: str) -> None:
        """Start at the range of the samples, shrunk to the least squared error when `method` is "mse"."""
        low, high = (samples.min().clamp(max=0) if self.signed else samples.new_zeros(())), samples.max()
        width = (high - low).clamp(min=SMALLEST_STEP)

        def at(share: Tensor) -> tuple[Tensor, Tensor]:
            return (width * share / self.qmax).reshape(()), (low * share).reshape(())

        share = samples.new_ones(())
        if method == "mse":
            # With samples scaled to 1, a threshold is the share of the range that is kept.
            unit = (samples / samples.abs().max().clamp(min=SMALLEST_STEP)).reshape(1, -1)
            largest = samples.abs().max()

            def fake(x: Tensor, threshold: Tensor) -> Tensor:
                step_size, offset = at(threshold)
                return fake_quantize_offset(x * largest, step_size, offset, qmax=self.qmax) / largest

            share = least_squares_start(unit, fake)
        step_size, offset = at(share)
        self.step_size.copy_(step_size)
        self.offset.copy_(offset)

    @property
    def scale_parameter(self) -> nn.Parameter:
        return self.step_size


def start_step_size(samples: Tensor, qmin: int, qmax: int, method: str) -> Tensor:
    """Return the starting step size for activations, any shape, by "mse" or "lsq"; ().

    A few large values decide the least squared error alone where a swish leaves most values small: their step would
    round nearly everything to 0, no image would differ from another, and training would explode. LSQ's start is by the
    mean, and taken there.
    """
    rows = samples.reshape(1, -1)
    if method == "mse":
        threshold = least_squares_start(rows, lambda x, t: fake_quantize(x, t / qmax, qmin=qmin, qmax=qmax))
        step_size = (threshold / qmax).squeeze()
        lost = (rows != 0) & (rows.abs() < step_size / 2)
        if lost.sum() <= MOST_LOST * (rows != 0).sum():
            return step_size
    return lsq_start(rows, qmax).squeeze()


def make_activation_quantizer(
    channels: int, spec: ActivationSpec, *, signed: bool, channels_last: bool
) -> ActivationQuantizer:
    """Return the quantizer that `spec` describes.

    Args:
        channels: of the layer's input.
        signed: can that be negative?
        channels_last: is its channel dimension the last one (Linear) or the second (Conv2d)?
    """
    match spec:
        case LsqActivations():
            return StepSizeQuantizer(spec, signed=signed)
        case AsqActivations():
            adapter = Adapter(channels, spec.adapter, channels_last=channels_last)
            return StepSizeQuantizer(spec, signed=signed, adapter=adapter)
        case PactActivations():
            return PactQuantizer(spec, signed=signed)
        case OffsetActivations():
            return OffsetQuantizer(spec, signed=signed)
        case _:
            raise TypeError(f"no quantizer of activations is made from a {type(spec).__name__}")
