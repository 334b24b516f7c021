"""The precision of a forward in training: what it multiplies in, and what lies between its layers.

In bfloat16 a forward runs under PyTorch's autocast, but for convolutions, linear layers and all that asq quantizes.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from asqcli.nn.layers import QuantConv2d, QuantLinear, quantized_layer
from asqcli.nn.norms import TwoStepNorm
from asqcli.quant.bfloat16 import MULTIPLIED, as_operand, as_result

FLOAT32, BFLOAT16 = "float32", "bfloat16"


@contextmanager
def forward_in(precision: str, device: torch.device) -> Generator[None]:
    """Hold what a forward in training is in, for its layers to multiply in `precision`.

    It belongs inside that of batch norms (`BatchNormsBy`), which does not go around the layers that this one sees.
    """
    with backward_in(precision, device), autocast(device) if precision != FLOAT32 else nullcontext():
        yield


def backward_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a backward, in which a network may run parts of its forward again.

    PyTorch's checkpointing restores their autocast. Where nobody does, layers give the type that they were given: in
    the rest of a backward autocast would reach into the gradients.
    """
    if precision == FLOAT32:
        return nullcontext()
    return InBfloat16(torch.bfloat16 if multiplies_bfloat16(device) else torch.float32)


def autocast(device: torch.device, *, enabled: bool = True) -> AbstractContextManager[object]:
    """Return the context in which PyTorch's operations choose bfloat16 or float32 by themselves, or do not."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    # Without the cache: what it holds may be recorded once and freed, or first made where no gradients are.
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Has a device instructions that multiply bfloat16?

    Of a CPU only PyTorch's private functions tell; where there are none, no.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if platform.machine().lower() in ("arm64", "aarch64"):
        return bool(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", bool)())
    # oneDNN takes bfloat16 on any AVX-512, but converts it where there is neither of these.
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


class InBfloat16(TorchFunctionMode):
    """While a forward runs in it, convolutions and linear layers multiply in bfloat16's precision.

    They give bfloat16 under autocast, and of bfloat16; else, where an author has switched that off, the input's type.

    Args:
        dtype: that operands are handed over in. With float32 the numbers are rounded all the same: what results
            does not depend on the processor, but for the order in which it adds.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is quantized_layer:
            layer, input, *geometry = args
            given = input.dtype if isinstance(layer, TwoStepNorm) else _given(input)
            if keeps_bfloat16(layer):
                with autocast(input.device, enabled=False):
                    return layer.compute_in_bfloat16(input, self.dtype, *geometry).to(given)
        if func in (F.conv2d, F.linear):
            return self._rounded(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _rounded(
        self, function: Callable[..., Tensor], input: Tensor, weight: Tensor, bias: Tensor | None = None,
        *geometry: Any, **named: Any,
    ) -> Tensor:  # fmt: skip
        if input.dtype not in MULTIPLIED or weight.dtype != torch.float32:
            return function(input, weight, bias, *geometry, **named)  # its author chose
        operands = (as_operand(tensor, None, self.dtype) for tensor in (input, weight))
        given = _given(input)
        with autocast(input.device, enabled=False):
            y = as_result(function(*operands, None, *geometry, **named)).to(given)
        if bias is None:
            return y
        bias = bias.to(y.dtype)
        return y + (bias if function is F.linear else bias.reshape(-1, *[1] * 2))


def _given(input: Tensor) -> torch.dtype:
    """Return the type that the result of a layer has."""
    kind = input.device.type
    # A device without autocast is none that its author could have switched it off for.
    chosen = not torch.amp.is_autocast_available(kind) or torch.is_autocast_enabled(kind)
    return torch.bfloat16 if chosen or input.dtype == torch.bfloat16 else input.dtype


def keeps_bfloat16(layer: nn.Module) -> bool:
    """May activations stay in bfloat16 around what asq computes?

    Not where evaluation's arithmetic is meant, where the levels of a layer are no whole numbers up to 256, or where its
    author chose float64.
    """
    if isinstance(layer, TwoStepNorm):
        return True
    if not isinstance(layer, QuantConv2d | QuantLinear) or layer.weight.dtype == torch.float64:
        return False
    return layer.training and (layer.weight_quantizer is None or layer.weight_quantizer.integer)
