"""Multiply-adds of the operators that reach torch's dispatcher, attention and functional calls included.

Elementwise products, normalization and pooling are not multiply-adds. Operators of other libraries, and those of torch
that are listed here as multiplying unseen, are refused; any other counts as nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode

from asqcli.errors import UnsupportedError
from asqcli.nn.calls import CallRecord


class ProductCounter(TorchDispatchMode):
    """Counts the multiply-adds of every operator for the innermost call that is running."""

    def __init__(self, record: CallRecord) -> None:
        super().__init__()
        self.record = record
        self.multiply_adds: dict[str, int] = {}  # by the name of the module

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        call = self.record.running[-1] if self.record.running else None
        name = "" if call is None else call.name
        operator = func._schema.name.removeprefix("aten::")
        if (formula := _MULTIPLY_ADDS.get(operator)) is not None:
            self.multiply_adds[name] = self.multiply_adds.get(name, 0) + formula(out, *args)
        elif "::" in operator or (operator.startswith(_UNCOUNTABLE) and operator not in _NO_PRODUCTS):
            raise UnsupportedError(
                f"{call or 'the network'} runs the operator `{func._schema.name}`, whose products asq cannot count"
            )
        return out


def _convolution(out, x, weight, bias, stride, padding, dilation, transposed, *_) -> int:
    # Each output value is a sum over one filter; transposed, each input value is spread over one.
    return (x if transposed else out).numel() * (weight.numel() // weight.shape[0])


def _attention(out, query, key, value, *_) -> int:
    queries, length = query.numel() // query.shape[-1], key.shape[-2]
    return queries * length * (query.shape[-1] + value.shape[-1])


_FUSED_ATTENTION = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
_MULTIPLY_ADDS: dict[str, Callable[..., int]] = {
    "convolution": _convolution,
    "mm": lambda out, a, b, *_: a.numel() * b.shape[-1],
    "bmm": lambda out, a, b, *_: a.numel() * b.shape[-1],
    "addmm": lambda out, bias, a, b, *_: a.numel() * b.shape[-1],
    "_addmm_activation": lambda out, bias, a, b, *_: a.numel() * b.shape[-1],
    "baddbmm": lambda out, bias, a, b, *_: a.numel() * b.shape[-1],
    "addbmm": lambda out, bias, a, b, *_: a.numel() * b.shape[-1],
    "mv": lambda out, a, b: a.numel(),
    "addmv": lambda out, bias, a, b, *_: a.numel(),
    "dot": lambda out, a, b: a.numel(),
    "vdot": lambda out, a, b: a.numel(),
} | {f"_scaled_dot_product_{name}": _attention for name in _FUSED_ATTENTION}
# Operators of other libraries have a namespace; of torch's own, these multiply matrices or vectors unseen.
_UNCOUNTABLE = (
    "_trilinear", "_cdist", "_fft_", "linalg_", "mkldnn_", "_cudnn_rnn", "miopen_", "_thnn_", "_efficient_attention",
    "_flash_attention", "_native_multi_head_attention", "_transformer_encoder", "quantized_", "_embedding_bag",
    "_grouped_mm", "_scaled_", "_int_mm", "_sparse", "cholesky", "lu_", "_conv_depthwise", "conv_", "slow_conv",
)  # fmt: skip
_NO_PRODUCTS = ("linalg_vector_norm",)
