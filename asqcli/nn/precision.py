"""The precision in which training multiplies: convolutions and linear layers, and nothing else."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from asqcli.nn.layers import QuantConv2d, QuantLinear, quantized_layer, without_autocast
from asqcli.quant.bfloat16 import as_operand, as_result

FLOAT32, BFLOAT16 = "float32", "bfloat16"


def multiplying_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a forward in training, and its backward, multiply in `precision`.

    It belongs inside `as_one_batch`, which does not go around the layers that it sees.
    """
    if precision == FLOAT32:
        return nullcontext()
    return InBfloat16(torch.bfloat16 if multiplies_bfloat16(device) else torch.float32)


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
    """While a forward runs in it, convolutions and linear layers multiply operands in bfloat16's precision.

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
        if func is quantized_layer and stays_exact(args[0]) and args[0].training:
            layer, input, *geometry = args
            return without_autocast(lambda x: layer.compute_in_bfloat16(x, self.dtype, *geometry), input)
        if func in (F.conv2d, F.linear):
            return self._rounded(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _rounded(
        self, function: Callable[..., Tensor], input: Tensor, weight: Tensor, bias: Tensor | None = None,
        *geometry: Any, **named: Any,
    ) -> Tensor:  # fmt: skip
        if input.dtype != torch.float32 or weight.dtype != torch.float32:
            return function(input, weight, bias, *geometry, **named)  # its author chose
        operands = (as_operand(tensor, None, self.dtype) for tensor in (input, weight))
        y = as_result(function(*operands, None, *geometry, **named))
        if bias is None:
            return y
        return y + (bias if function is F.linear else bias.reshape(-1, *[1] * 2))


def stays_exact(layer: nn.Module) -> bool:
    """Is it a quantized layer whose levels are whole numbers up to 256? Not one whose author chose float64."""
    if not isinstance(layer, QuantConv2d | QuantLinear) or layer.weight.dtype == torch.float64:
        return False
    return layer.weight_quantizer is None or layer.weight_quantizer.integer
