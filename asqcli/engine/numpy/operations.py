"""What lies between the kernels, in NumPy: codes, and the fixed arithmetic of adapters, pools and gates.

Arrays are (N, C, H, W) or (N, features), float32, whatever their order in memory: a convolution leaves channels last.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from types import ModuleType

import numpy as np

from asqcli.arithmetic import formulas
from asqcli.artifact.nodes import Activations
from asqcli.artifact.nodes import Adapter as AdapterDocument

PART = 2**13  # numbers

Pair = tuple[int, int]


class Quantizer:
    """A layer's input to codes and their scale.

    Args:
        activations: its description.
        tensors: the artifact's.
    """

    def __init__(self, activations: Activations, tensors: dict[str, np.ndarray]) -> None:
        self.qmin, self.qmax = np.float32(activations.qmin), np.float32(activations.qmax)
        self.step_size = tensors[activations.step_size][0]
        self.as_printed = activations.dequantize_by == "step_size"
        self.adapter = None if activations.adapter is None else AdapterEngine(activations.adapter, tensors)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (codes, whole numbers in float32 of the shape of `x`; scale (N, 1) or (1, 1), float32)."""
        step = np.full((1, 1), self.step_size, np.float32)
        adapted = step if self.adapter is None else step * self.adapter(x)
        reciprocal = (np.float32(1) / adapted).reshape(-1, *[1] * (x.ndim - 1))
        codes = x * reciprocal
        np.rint(codes, out=codes)
        np.fmin(codes, self.qmax, out=codes)  # fmin and fmax bring a NaN into the range, too
        np.fmax(codes, self.qmin, out=codes)
        return codes, step if self.as_printed else adapted


class AdapterEngine:
    """A layer's input to beta, one number per sample."""

    def __init__(self, document: AdapterDocument, tensors: dict[str, np.ndarray]) -> None:
        self.output = document.output
        self.layers = []
        for layer in document.layers:
            bias = tensors[layer.bias].astype(np.float64)
            scale = np.ones_like(bias) if layer.row_scale is None else tensors[layer.row_scale].astype(np.float64)
            self.layers.append((tensors[layer.weight].astype(np.float64), scale, bias))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return beta, (N, 1) float32."""
        means = formulas.mean(np, np.moveaxis(x, 1, -1))
        return formulas.beta(np, formulas.adapter(np, means, self.layers), self.output).astype(np.float32)


def avg_pool(x: np.ndarray, kernel_size: Pair, stride: Pair, border: Pair, *, count_include_pad: bool) -> np.ndarray:
    """Return averages over windows, (N, C, H, W) to (N, C, H_out, W_out)."""
    if any(border):
        x = np.pad(x, ((0, 0), (0, 0), *((side, side) for side in border)))
    return formulas.avg_pool(np, x, kernel_size, stride, border, count_include_pad=count_include_pad)


def adaptive_avg_pool(x: np.ndarray, output_size: Pair) -> np.ndarray:
    """Return averages over `output_size` windows that cover the image, (N, C, H, W) to (N, C, *output_size)."""
    return formulas.adaptive_avg_pool(np, x, output_size)


def max_pool(
    x: np.ndarray, kernel_size: Pair, stride: Pair, padding: tuple[int, int, int, int], dilation: Pair
) -> np.ndarray:
    """Return the largest value of each window; the border is minus infinity."""
    top, left, bottom, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=-np.inf)
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size, strict=True)]
    rows, columns = ((n - e) // s * s + 1 for n, e, s in zip(x.shape[2:], extents, stride, strict=True))
    offsets = product(range(0, extents[0], dilation[0]), range(0, extents[1], dilation[1]))
    first, *others = (x[:, :, i : i + rows : stride[0], j : j + columns : stride[1]] for i, j in offsets)
    out = first.copy(order="K")
    for tap in others:  # the first of equal zeros stays, which np.maximum does not promise
        np.copyto(out, tap, where=(tap > out) | (tap != tap))
    return out


def gate(op: str, x: np.ndarray) -> np.ndarray:
    """Return a gate's values for `x`."""
    formula = formulas.GATES[op]
    return formula(np, x) if op in ("hardsigmoid", "hardswish") else _in_parts(formula, x)


def _in_parts(formula: Callable[[ModuleType, np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return a formula's value for each number, from parts that stay in the cache whatever the order in memory."""
    with (
        np.errstate(invalid="ignore"),  # a NaN is no whole number, but passes through
        np.nditer(
            [x, None],
            ["buffered", "external_loop"],
            [["readonly"], ["writeonly", "allocate"]],
            op_dtypes=[np.float32] * 2,
            buffersize=PART,
        ) as parts,
    ):
        for part, out in parts:
            out[...] = formula(np, part)
        return parts.operands[1]
