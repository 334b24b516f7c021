"""The modules that hold a layer's activation quantizer: LSQ and ASQ, PACT, LSQ+."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from asqcli.errors import UsageError
from asqcli.quant.adapter import Adapter, hidden_features
from asqcli.quant.baselines import fake_quantize_offset, fake_quantize_pact, zero_point
from asqcli.quant.bounds import integer_bounds
from asqcli.quant.fake_quant import fake_quantize, gradient_scale, quantize
from asqcli.quant.step_size import SMALLEST_STEP, least_squares_start, lsq_start

MOST_LOST = 0.75  # share of the values other than 0 that a starting step may round to 0


class ActivationQuantizer(nn.Module, ABC):
    """What every activation quantizer promises.

    Attributes:
        bits: of a code.
        signed: can the input be negative?
        largest_code: bound of the magnitude of what `quantize` returns.
        adapter: what adapts the step size to each sample, in ASQ.
    """

    bits: int
    signed: bool
    largest_code: int
    adapter: Adapter | None

    def __init__(self, *, bits: int, signed: bool, adapter: Adapter | None = None) -> None:
        super().__init__()
        self.bits, self.signed, self.adapter = bits, signed, adapter

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the fake-quantized `x`, real units. `x`: (N, C, H, W), or (N, .., C) for a Linear layer."""

    @abstractmethod
    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (codes, scale): whole numbers, shape of `x`; and () or (N, 1, .., 1), the real value of code 1."""

    @abstractmethod
    def integer_form(self) -> tuple[int, int, Tensor]:
        """Return (qmin, qmax, step_size): codes are clamp(round(x / step), qmin, qmax), for the step of each sample."""

    @abstractmethod
    def start(self, samples: Tensor, method: str) -> None:
        """Set the parameters from activations, any shape; `method` is "mse" or "lsq"."""

    @abstractmethod
    def project(self) -> None:
        """Bring steps and thresholds back above 0; call after each optimizer step."""


class StepSizeQuantizer(ActivationQuantizer):
    """LSQ, or ASQ when it holds an adapter: codes times one step size, adapted to each sample.

    Args:
        bits: 2 to 8.
        signed: can the input be negative?
        adapter: None for LSQ.
        dequantize_by: "adapted_step_size" (what Eq. 7 is the gradient of), or "step_size" (Eq. 6 as printed).
    """

    def __init__(
        self,
        *,
        bits: int,
        signed: bool,
        adapter: Adapter | None = None,
        dequantize_by: str = "adapted_step_size",
    ) -> None:
        super().__init__(bits=bits, signed=signed, adapter=adapter)
        self.qmin, self.qmax = integer_bounds(bits, signed=signed)
        self.largest_code = max(-self.qmin, self.qmax)
        self.step_size = nn.Parameter(torch.ones(()))
        self.dequantizes_as_printed = adapter is not None and dequantize_by == "step_size"

    def forward(self, x: Tensor) -> Tensor:
        beta = None if self.adapter is None else self.adapter(x)
        x_hat = fake_quantize(
            x,
            self.step_size,
            beta,
            qmin=self.qmin,
            qmax=self.qmax,
            step_gradient_scale=gradient_scale(x[0].numel(), self.qmax),
        )
        return x_hat / beta if self.dequantizes_as_printed else x_hat

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

    @torch.no_grad()
    def project(self) -> None:
        self.step_size.clamp_(min=SMALLEST_STEP)


class PactQuantizer(ActivationQuantizer):
    """PACT: codes times a `qmax`-th of one learned clipping threshold.

    Args:
        bits: 2 to 8.
        signed: can the input be negative? The range is then symmetric, one code unused.
    """

    def __init__(self, *, bits: int, signed: bool) -> None:
        super().__init__(bits=bits, signed=signed)
        self.qmax = self.largest_code = integer_bounds(bits, signed=signed)[1]
        self.qmin = -self.qmax if signed else 0
        self.clipping_threshold = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize_pact(x, self.clipping_threshold, qmin=self.qmin, qmax=self.qmax)

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        qmin, qmax, step_size = self.integer_form()
        return quantize(x, step_size, qmin=qmin, qmax=qmax), step_size

    def integer_form(self) -> tuple[int, int, Tensor]:
        return self.qmin, self.qmax, self.clipping_threshold / self.qmax

    @torch.no_grad()
    def start(self, samples: Tensor, method: str) -> None:
        self.clipping_threshold.copy_(start_step_size(samples, self.qmin, self.qmax, method) * self.qmax)

    @torch.no_grad()
    def project(self) -> None:
        self.clipping_threshold.clamp_(min=SMALLEST_STEP * self.qmax)


class OffsetQuantizer(ActivationQuantizer):
    """LSQ+: steps counted from a learned offset, for ranges that are neither one-sided nor symmetric.

    The offset is a whole number of steps, so that codes minus zero point are integers with 0 among them.

    Args:
        bits: 2 to 8.
        signed: can the input be negative? Otherwise the offset starts at 0.
    """

    def __init__(self, *, bits: int, signed: bool) -> None:
        super().__init__(bits=bits, signed=signed)
        self.qmax = self.largest_code = integer_bounds(bits, signed=False)[1]
        self.step_size = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        scale = gradient_scale(x[0].numel(), self.qmax)
        return fake_quantize_offset(x, self.step_size, self.offset, qmax=self.qmax, gradient_scale=scale)

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

    @torch.no_grad()
    def project(self) -> None:
        self.step_size.clamp_(min=SMALLEST_STEP)


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
    channels: int,
    *,
    quantizer: str,
    bits: int,
    signed: bool,
    channels_last: bool,
    adapter: dict | None = None,
    dequantize_by: str = "adapted_step_size",
) -> ActivationQuantizer:
    """Return the activation quantizer that a recipe's `activations` section describes.

    Args:
        channels: of the layer's input.
        channels_last: is the channel dimension the last one (Linear) or the second (Conv2d)?
        adapter: for asq, its section: hidden, bits, output.
    Raises:
        UsageError: unknown quantizer.
    """
    if quantizer == "pact":
        return PactQuantizer(bits=bits, signed=signed)
    if quantizer == "lsq+":
        return OffsetQuantizer(bits=bits, signed=signed)
    if quantizer == "lsq":
        return StepSizeQuantizer(bits=bits, signed=signed)
    if quantizer != "asq":
        raise UsageError(f"unknown activation quantizer `{quantizer}`, choose lsq, asq, pact, lsq+")
    module = Adapter(
        channels,
        hidden=hidden_features(channels, adapter["hidden"]),
        bits=None if adapter["bits"] == "float" else adapter["bits"],
        output=adapter["output"],
        channels_last=channels_last,
    )
    return StepSizeQuantizer(bits=bits, signed=signed, adapter=module, dequantize_by=dequantize_by)
