"""Multiply-adds of the operators that reach torch's dispatcher, attention and functional calls included.

Elementwise products, normalization and pooling are not multiply-adds. Operators of other libraries, and those of torch
that are listed here as multiplying unseen, are refused; any other counts as nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from asqcli.errors import UnsupportedError
from asqcli.nn.calls import CallRecord


class ProductCounter(TorchDispatchMode):
    """Counts the multiply-adds of every operator for the innermost call that is running."""

    def __init__(self, record: CallRecord) -> None:
        super().__init__()
        self.record = record
        self.multiply_adds: dict[str, int] = {}  # by the name of the module

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.name.removeprefix("aten::") not in _MULTIPLY_ADDS:
            with self:  # in inference mode conv2d and linear come as they are, not as what they consist of
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        call = self.record.running[-1] if self.record.running else None
        name = "" if call is None else call.name
        operator = func._schema.name.removeprefix("aten::")
        if (formula := _MULTIPLY_ADDS.get(operator)) is not None:
            self.multiply_adds[name] = self.multiply_adds.get(name, 0) + formula(out, *args)
        elif _UNCOUNTABLE.match(operator) and not _NO_PRODUCTS.match(operator):
            raise UnsupportedError(
                f"{call or 'the network'} runs the operator `{func._schema.name}`, whose products asq cannot count"
            )
        return out


def _convolution(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    *_: object,
) -> int:
    # Each output value is a sum over one filter; transposed, each input value is spread over one.
    return (x if transposed else out).numel() * (weight.numel() // weight.shape[0])


def _attention(out: object, query: Tensor, key: Tensor, value: Tensor, *_: object) -> int:
    queries, length = query.numel() // query.shape[-1], key.shape[-2]
    return queries * length * (query.shape[-1] + value.shape[-1])


def _embedding_bag(
    out: object,
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad: bool = False,
    mode: int = 0,
    sparse: bool = False,
    weights: Tensor | None = None,
    *_: object,
) -> int:
    return 0 if weights is None else indices.numel() * weight.shape[1]  # without weights a sum


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
    "_embedding_bag": _embedding_bag,
    "_embedding_bag_forward_only": _embedding_bag,
} | {f"_scaled_dot_product_{name}": _attention for name in _FUSED_ATTENTION}
# Operators of other libraries have a namespace; of torch's own, these multiply matrices or vectors unseen.
_UNCOUNTABLE = re.compile(
    r"\w+::|_trilinear|_cdist|_fft_|linalg_|mkldnn_|_cudnn_rnn|miopen_|_thnn_|_efficient_attention|_flash_attention|"
    r"_native_multi_head_attention|_transformer_encoder|quantized_|_grouped_mm|_scaled_|_int_mm|_sparse|cholesky|lu_|"
    r"_conv_depthwise|conv_|slow_conv"
)
# Marks of profilers and checks, talk between processes, and what only compares, moves or pools.
_NO_PRODUCTS = re.compile(
    r"profiler::|prim::|debug::|c10d::|_c10d_functional::|torchvision::(_cuda_version|nms|roi_|ps_roi_)|"
    r"linalg_(vector_norm|cross|diagonal)|lu_unpack|_sparse_(log_)?softmax"
)
