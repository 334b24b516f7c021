"""The formulas between the kernels: those of FORMAT.md in NumPy, each operation rounded by itself.

Arrays are (N, C, H, W) or (N, features), float32, whatever their order in memory: a convolution leaves channels last.
The same formulas stand in `asqcli.quant.ordered` for torch; tests hold the two together, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from asqcli import fixed_arithmetic as fixed
from asqcli.artifact.nodes import Activations
from asqcli.artifact.nodes import Adapter as AdapterDocument

SIGMOID_PART = 2**13  # numbers

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

    def __init__(self, adapter: AdapterDocument, tensors: dict[str, np.ndarray]) -> None:
        self.output = adapter.output
        self.layers = []
        for layer in adapter.layers:
            bias = tensors[layer.bias].astype(np.float64)
            scale = np.ones_like(bias) if layer.row_scale is None else tensors[layer.row_scale].astype(np.float64)
            self.layers.append((tensors[layer.weight].astype(np.float64), scale, bias))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return beta, (N, 1) float32."""
        hidden = (global_mean(x) if x.ndim == 4 else x).astype(np.float64)
        for index, (weight, scale, bias) in enumerate(self.layers):
            if index:
                hidden = np.maximum(hidden, 0.0)
            hidden = linear(hidden, weight, scale, bias)
        return self._beta(hidden).astype(np.float32)

    def _beta(self, t: np.ndarray) -> np.ndarray:
        if self.output == "relu":
            return np.maximum(np.maximum(t, 0.0), fixed.PAPER_SMALLEST_BETA)
        return np.where(t >= 0, 1 + t, 1 / (1 - np.minimum(t, 0.0)))


def linear(x: np.ndarray, weight: np.ndarray, row_scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return (weight @ x) * row_scale + bias in double, in the order of eight lanes.

    Args:
        x: (N, inputs); weight: (outputs, inputs); row_scale, bias: (outputs,); all double.
    Returns:
        (N, outputs), double.
    """
    padding = ((0, 0), (0, -x.shape[1] % fixed.LANES))
    x_blocks = np.pad(x, padding).reshape(len(x), 1, -1, fixed.LANES)
    weight_blocks = np.pad(weight, padding).reshape(len(weight), -1, fixed.LANES)
    lanes = np.zeros((len(x), len(weight), fixed.LANES))
    for block in range(weight_blocks.shape[1]):
        lanes += x_blocks[:, :, block] * weight_blocks[:, block]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0] * row_scale + bias


def global_mean(x: np.ndarray) -> np.ndarray:
    """Return the mean over the pixels of each channel, (N, C, H, W) to (N, C)."""
    return adaptive_avg_pool(x, (1, 1))[:, :, 0, 0]


def avg_pool(x: np.ndarray, kernel_size: Pair, stride: Pair, padding: Pair, count_include_pad: bool) -> np.ndarray:
    """Return averages over windows, (N, C, H, W) to (N, C, H_out, W_out)."""
    sums = _window_sums(x.astype(np.float64), kernel_size, stride, padding)
    if count_include_pad or padding == (0, 0):
        sizes = float(math.prod(kernel_size))
    else:
        # A window that lies in the border altogether holds nothing: 0 / 1.
        ones = np.ones((1, 1, *x.shape[2:]))
        sizes = np.maximum(_window_sums(ones, kernel_size, stride, padding), 1.0)
    return (sums / sizes).astype(np.float32)


def _window_sums(x: np.ndarray, kernel_size: Pair, stride: Pair, padding: Pair) -> np.ndarray:
    (top, left), (step_y, step_x) = padding, stride
    x = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
    rows, columns = (
        (x.shape[2] - kernel_size[0]) // step_y * step_y + 1,
        (x.shape[3] - kernel_size[1]) // step_x * step_x + 1,
    )
    x = ordered_sum([x[:, :, :, j : j + columns : step_x] for j in range(kernel_size[1])])
    return ordered_sum([x[:, :, i : i + rows : step_y] for i in range(kernel_size[0])])


def adaptive_avg_pool(x: np.ndarray, output_size: Pair) -> np.ndarray:
    """Return averages over `output_size` windows that cover the image, (N, C, H, W) to (N, C, *output_size)."""
    heights, widths = (fixed.adaptive_windows(n, o) for n, o in zip(x.shape[2:], output_size, strict=True))
    counts = np.multiply.outer(*([float(end - first) for first, end in sides] for sides in (heights, widths)))
    x = np.stack([ordered_sum([x[:, :, :, j] for j in range(*window)]) for window in widths], axis=3)
    x = np.stack([ordered_sum([x[:, :, i] for i in range(*window)]) for window in heights], axis=2)
    return (x / counts).astype(np.float32)


def ordered_sum(terms: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sum in double, added from the first to the last."""
    running = np.zeros(terms[0].shape)
    for term in terms:
        running += term
    return running


def max_pool(
    x: np.ndarray, kernel_size: Pair, stride: Pair, padding: tuple[int, int, int, int], dilation: Pair
) -> np.ndarray:
    """Return the largest value of each window; the border is minus infinity."""
    top, left, bottom, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=-np.inf)
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size, strict=True)]
    rows, columns = ((n - e) // s * s + 1 for n, e, s in zip(x.shape[2:], extents, stride, strict=True))
    (step_y, step_x), out = stride, None
    for i in range(0, extents[0], dilation[0]):
        for j in range(0, extents[1], dilation[1]):
            tap = x[:, :, i : i + rows : step_y, j : j + columns : step_x]
            out = tap.copy(order="K") if out is None else np.maximum(out, tap, out=out)
    return out


def gate(op: str, x: np.ndarray) -> np.ndarray:
    """Return sigmoid, silu, hardsigmoid or hardswish of `x`."""
    if op in ("sigmoid", "silu"):
        value = sigmoid(x)
    else:
        value = np.clip(x + np.float32(3), np.float32(0), np.float32(6)) * np.float32(fixed.SIXTH)
    return x * value if op in ("silu", "hardswish") else value


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)) in float32, from doubles and exactly rounded operations only."""
    # In parts that stay in the cache, whatever the order in memory.
    flags, operands = ["buffered", "external_loop"], [["readonly"], ["writeonly", "allocate"]]
    with np.nditer([x, None], flags, operands, op_dtypes=[np.float32] * 2, buffersize=SIGMOID_PART) as parts:
        for part, out in parts:
            out[...] = _sigmoid(part)
        return parts.operands[1]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    e = _exp_of_negative(np.minimum(np.abs(x), fixed.EXP_LARGEST))
    return (np.where(x < 0, e, 1.0) / (1.0 + e)).astype(np.float32)


def _exp_of_negative(y: np.ndarray) -> np.ndarray:
    """Return exp(-y) for y in 0..700, double: a power series for what is left of whole powers of two."""
    k = np.rint(y * fixed.LOG2_E)
    r = (k * fixed.LN2_HIGH - y) + k * fixed.LN2_LOW
    power = np.full_like(r, fixed.EXP_COEFFICIENTS[0])
    for coefficient in fixed.EXP_COEFFICIENTS[1:]:
        power = power * r + coefficient
    with np.errstate(invalid="ignore"):  # a NaN is no whole number, and stays in `power`
        return power * ((1023 - k.astype(np.int64)) << 52).view(np.float64)
