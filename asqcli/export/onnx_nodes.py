"""One node of an artifact to the ONNX operators of its formula, as `asqcli.engine.numpy.operations` has it in NumPy.

A layer's value has the layer's name, and what lies inside it is called `layer/codes`, `layer/accumulator` and so on, so
that two runtimes can be compared value by value.
"""

from __future__ import annotations

import numpy as np

from asqcli.artifact import Artifact
from asqcli.artifact import document as doc
from asqcli.export.onnx_graph import Graph
from asqcli.fixed_arithmetic import PAPER_SMALLEST_BETA, SIXTH, adaptive_windows

FLOAT, DOUBLE, UINT8 = 1, 11, 2  # ONNX's numbers of the types

# Weights are unsigned, counted from 128. onnxruntime 1.18 has no ConvInteger for signed ones, and without VNNI
# instructions it adds pairs of products of u8 and s8 in 16 bits, which saturate; those of u8 and u8 are widened first.
WEIGHT_ZERO_POINT = 128

LAST = 2**31 - 1  # of a slice: up to the end

Window = tuple[int, int]  # first pixel, end


def write_node(graph: Graph, artifact: Artifact, index: int, inputs: list[str], output: str | None) -> str:
    """Add the operators of node `index`; return the name of its value.

    Args:
        inputs: names of the values that the node reads.
        output: the name of its value; None: the node's own.
    """
    node = artifact.document.nodes[index]
    writer = _Writer(graph, artifact, node.name or node.op)
    shapes = [artifact.plan.shapes[value] for value in node.inputs]
    name = output or graph.unique(writer.name)
    writer.write(node, inputs, shapes)
    return graph.call_last_value(name)


class _Writer:
    """Adds operators under the name of one node. Each method leaves the value that it returns as the last one."""

    def __init__(self, graph: Graph, artifact: Artifact, name: str) -> None:
        self.graph, self.artifact, self.name = graph, artifact, name

    def add(self, op: str, *inputs: str, name: str, **attributes) -> str:
        return self.graph.add(op, *inputs, name=f"{self.name}/{name}", **attributes)

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        return self.graph.constant(f"{self.name}.{name}", value)

    def tensor(self, name: str, shape: tuple[int, ...]) -> str:
        """Return a tensor of the artifact as a constant of that shape."""
        return self.graph.constant(name, self.artifact.tensors[name].reshape(shape))

    def integers(self, name: str, *values: int) -> str:
        return self.constant(name, np.array(values, np.int64))

    def cast(self, x: str, to: int, *, name: str) -> str:
        return self.add("Cast", x, name=name, to=to)

    def write(self, node, inputs: list[str], shapes: list[tuple[int, ...]]) -> str:
        x, shape = inputs[0], shapes[0]
        match node:
            case doc.Conv() | doc.Linear():
                return self.quantized_layer(node, x)
            case doc.BatchNorm():
                product = self.add("Mul", x, self.tensor(node.g, (-1, 1, 1)), name="multiplied")
                return self.add("Add", product, self.tensor(node.b, (-1, 1, 1)), name="normalized")
            case doc.Clamp():
                return self.clamp(x, node.low, node.high)
            case doc.Gate():
                return self.gate(node.op, x)
            case doc.Add():
                return self.add("Add", *inputs, name="sum")
            case doc.Mul():
                return self.add("Mul", *inputs, name="product")
            case doc.MaxPool():
                return self.max_pool(node, x)
            case doc.AvgPool():
                return self.avg_pool(node, x, shape)
            case doc.AdaptiveAvgPool():
                heights, widths = (adaptive_windows(n, o) for n, o in zip(shape[1:], node.output_size, strict=True))
                return self.means(x, shape, heights, widths, _sizes(heights, widths))
            case doc.Reshape():
                return self.add("Reshape", x, self.integers("shape", 0, *node.shape), name="reshaped")
            case doc.Transpose():
                order = list(range(len(shape) + 1))
                first, second = (axis + 1 for axis in node.axes)
                order[first], order[second] = order[second], order[first]
                return self.add("Transpose", x, name="transposed", perm=order)
            case doc.Concat():
                return self.add("Concat", *inputs, name="joined", axis=node.axis + 1)
            case doc.Slice():
                return self.slice(x, node.axis + 1, node.start, node.stop, node.step)
            case doc.Pad():
                return self.pad_safely(x, node.before, node.after, np.float32(0))
        raise AssertionError(node)

    # Quantized layers

    def quantized_layer(self, node: doc.Conv | doc.Linear, x: str) -> str:
        """Quantize, accumulate, scale, add the bias."""
        weights, activations = node.weights, node.activations
        per_channel = (-1, 1, 1) if isinstance(node, doc.Conv) else (-1,)
        step = self.artifact.tensors[activations.step_size][0]
        adapted = None if activations.adapter is None else self.adapted_step_size(node, x)
        codes = self.codes(node, x, step, adapted)
        if adapted is None or activations.dequantize_by == "step_size":
            scale = self.constant("scale", (step * self.artifact.tensors[weights.scale]).reshape(per_channel))
        else:
            weight_scale = self.cast(self.tensor(weights.scale, (-1,)), DOUBLE, name="weight_scale")
            product = self.add("Mul", adapted, weight_scale, name="double_scale")  # (N, C_out or 1)
            scale = self.over_pixels(node, self.cast(product, FLOAT, name="scale"))
        accumulator = self.cast(self.accumulator(node, codes), FLOAT, name="real_accumulator")
        value = self.add("Mul", accumulator, scale, name="scaled")
        if weights.bias is None:
            return value
        return self.add("Add", value, self.tensor(weights.bias, per_channel), name="biased")

    def codes(self, node: doc.Conv | doc.Linear, x: str, step: np.float32, adapted: str | None) -> str:
        """Return the input's codes as uint8, counted from the zero point -qmin."""
        activations = node.activations
        if adapted is None:
            reciprocal = self.constant("reciprocal", np.float32(1) / step)
        else:
            quotient = self.add("Div", self.constant("one", np.float64(1)), adapted, name="double_reciprocal")
            reciprocal = self.over_pixels(node, self.cast(quotient, FLOAT, name="reciprocal"))
        steps = self.add("Mul", x, reciprocal, name="steps")
        rounded = self.add("Round", steps, name="rounded")
        bounds = [self.constant(b, np.float32(getattr(activations, b))) for b in ("qmin", "qmax")]
        codes = self.add("Clip", rounded, *bounds, name="clipped")
        if activations.qmin != 0:
            codes = self.add("Add", codes, self.constant("offset", np.float32(-activations.qmin)), name="offset_codes")
        return self.cast(codes, UINT8, name="codes")

    def accumulator(self, node: doc.Conv | doc.Linear, codes: str) -> str:
        """Return the sums of products, int32; padding is code 0, that is, the zero point."""
        weight = (self.artifact.levels(node.weights).astype(np.int16) + WEIGHT_ZERO_POINT).astype(np.uint8)
        operands = (
            codes,
            self.constant("weight", weight.T if isinstance(node, doc.Linear) else weight),
            self.constant("zero_point", np.uint8(-node.activations.qmin)),
            self.constant("weight_zero_point", np.uint8(WEIGHT_ZERO_POINT)),
        )
        if isinstance(node, doc.Linear):
            return self.add("MatMulInteger", *operands, name="accumulator")
        return self.add(
            "ConvInteger",
            *operands,
            name="accumulator",
            kernel_shape=weight.shape[2:],
            strides=node.stride,
            pads=node.padding,
            dilations=node.dilation,
            group=node.groups,
        )

    def over_pixels(self, node: doc.Conv | doc.Linear, x: str) -> str:
        """Return (N, C) as (N, C, 1, 1) for a convolution."""
        if isinstance(node, doc.Linear):
            return x
        return self.add("Unsqueeze", x, self.integers("pixel_axes", 2, 3), name="over_pixels")

    # The adapter

    def adapted_step_size(self, node: doc.Conv | doc.Linear, x: str) -> str:
        """Return step_size * beta, (N, 1): a float32 number, as double.

        A quotient or product of float32 numbers in double, rounded, is that in float32. In float32 onnxruntime (1.31)
        would make x / step of x * (1 / step), which is another number, and merge the scale of a matrix product with
        the first step of a batch for all its samples.
        """
        adapter = node.activations.adapter
        hidden = x
        if isinstance(node, doc.Conv):
            shape = self.artifact.plan.shapes[node.inputs[0]]
            windows = [[(0, side)] for side in shape[1:]]
            mean = self.means(x, shape, *windows, _sizes(*windows))
            hidden = self.add("Flatten", mean, name="channel_means")
        hidden = self.cast(hidden, DOUBLE, name="adapter_input")
        for index in range(len(adapter.layers)):
            if index:
                hidden = self.add("Relu", hidden, name="hidden")
            hidden = self.adapter_layer(adapter, index, hidden)
        beta = self.cast(self.beta(adapter, hidden), FLOAT, name="beta")
        step = self.tensor(node.activations.step_size, ())
        return self.cast(self.add("Mul", step, beta, name="adapted_step_size"), DOUBLE, name="double_step")

    def adapter_layer(self, adapter: doc.Adapter, index: int, hidden: str) -> str:
        """Return (weight @ hidden) * row_scale + bias, (N, outputs), double."""
        layer, tensors = adapter.layers[index], self.artifact.tensors
        weight = self.constant(f"adapter.{index}.weight", tensors[layer.weight].T)
        result = self.add("MatMul", hidden, self.cast(weight, DOUBLE, name="adapter_weight"), name="adapter_product")
        if layer.row_scale is not None:
            scale = self.cast(self.tensor(layer.row_scale, (-1,)), DOUBLE, name="adapter_scale")
            result = self.add("Mul", result, scale, name="adapter_scaled")
        bias = self.cast(self.tensor(layer.bias, (-1,)), DOUBLE, name="adapter_bias")
        return self.add("Add", result, bias, name="adapter_output")

    def beta(self, adapter: doc.Adapter, t: str) -> str:
        """Return beta, (N, 1), double."""
        zero = self.constant("zero", np.float64(0))
        above = self.add("Max", t, zero, name="positive_part")
        if adapter.output == "relu":
            return self.add(
                "Max", above, self.constant("smallest_beta", np.float64(PAPER_SMALLEST_BETA)), name="kept_above"
            )
        # One of the two is 1: (1 + t) / 1 from zero on, and 1 / (1 - t) below.
        one = self.constant("one", np.float64(1))
        below = self.add("Min", t, zero, name="negative_part")
        numerator = self.add("Add", one, above, name="numerator")
        return self.add("Div", numerator, self.add("Sub", one, below, name="denominator"), name="double_beta")

    # What lies between the layers

    def clamp(self, x: str, low: float | None, high: float | None) -> str:
        if low is None and high is None:
            return self.add("Identity", x, name="same")
        if low == 0 and high is None:
            return self.add("Relu", x, name="relu")
        low, high = ("" if v is None else self.constant(n, np.float32(v)) for n, v in (("low", low), ("high", high)))
        return self.add("Clip", x, low, *[high] * bool(high), name="clamped")

    def gate(self, op: str, x: str) -> str:
        if op in ("sigmoid", "silu"):
            value = self.sigmoid(x)
        else:
            moved = self.add("Add", x, self.constant("three", np.float32(3)), name="moved")
            bounds = self.constant("zero", np.float32(0)), self.constant("six", np.float32(6))
            value = self.add("Clip", moved, *bounds, name="clipped")
            value = self.add("Mul", value, self.constant("sixth", np.float32(SIXTH)), name="gate")
        return self.add("Mul", x, value, name="gated") if op in ("silu", "hardswish") else value

    def sigmoid(self, x: str) -> str:
        """Return 1 / (1 + exp(-x)): in double, where Exp is off by far less than float32 can tell."""
        one = self.constant("one", np.float64(1))
        negative = self.add("Neg", self.cast(x, DOUBLE, name="double"), name="negative")
        denominator = self.add("Add", one, self.add("Exp", negative, name="exp"), name="denominator")
        return self.cast(self.add("Div", one, denominator, name="quotient"), FLOAT, name="sigmoid")

    def max_pool(self, node: doc.MaxPool, x: str) -> str:
        padding = node.padding
        if any(border >= side for border, side in zip(padding, node.kernel_size * 2, strict=True)):
            # More border than runtimes take with the pool itself.
            x = self.pad_safely(x, (0, *padding[:2]), (0, *padding[2:]), np.float32(-np.inf))
            padding = (0, 0, 0, 0)
        return self.add(
            "MaxPool",
            x,
            name="largest",
            kernel_shape=node.kernel_size,
            strides=node.stride,
            pads=padding,
            dilations=node.dilation,
        )

    def avg_pool(self, node: doc.AvgPool, x: str, shape: tuple[int, ...]) -> str:
        sides = list(zip(shape[1:], node.kernel_size, node.stride, node.padding, strict=True))
        heights, widths = ([(i, i + k) for i in range(0, n + 2 * p - k + 1, s)] for n, k, s, p in sides)
        sizes = _sizes(heights, widths)
        if not node.count_include_pad:
            # Of each window, what lies in the image; one that lies in the border altogether holds nothing: 0 / 1.
            inside = [
                [(max(a, p), max(a, p, min(b, p + n))) for a, b in windows]
                for windows, (n, _, _, p) in zip((heights, widths), sides, strict=True)
            ]
            sizes = np.maximum(_sizes(*inside), 1.0)
        border = (0, *node.padding) if any(node.padding) else None
        return self.means(x, shape, heights, widths, sizes, border)

    def means(
        self,
        x: str,
        shape: tuple[int, ...],
        heights: list[Window],
        widths: list[Window],
        sizes: np.ndarray,
        border: tuple[int, ...] | None = None,
    ) -> str:
        """Return the means over windows of (N, C, H, W): summed in double, along rows and then down, rounded once.

        Args:
            shape: of one sample of `x`.
            sizes: what to divide by, double, (1 or windows down, 1 or windows across).
            border: of zeros, on both sides of channels, height and width.
        """
        x = self.cast(x, DOUBLE, name="double")
        if border is not None:
            x = self.pad(x, border, border, np.float64(0))
        sums = x
        for axis, windows in ((3, widths), (2, heights)):
            if windows == [(0, shape[axis - 1])] and border is None:
                sums = self.add("ReduceSum", sums, self.integers("axis", axis), name="sum")
            else:
                sums = self.sums(sums, axis, windows)
        return self.cast(self.add("Div", sums, self.constant("sizes", sizes), name="quotient"), FLOAT, name="mean")

    def sums(self, x: str, axis: int, windows: list[Window]) -> str:
        """Return the sum over each window along one axis.

        Overlapping windows of one size and distance are added pixel by pixel, all windows at once; others are reduced
        one by one and joined.
        """
        (start, end), last = windows[0], windows[-1][0]
        size, step = end - start, max(1, windows[1][0] - start) if len(windows) > 1 else 1
        regular = windows == [(i, i + size) for i in range(start, last + 1, step)]
        if regular and size <= len(windows):
            total = None
            for pixel in range(size):
                tap = self.slice(x, axis, start + pixel, last + pixel + 1, step)
                total = tap if total is None else self.add("Add", total, tap, name="sum")
            return total
        axes = self.integers("axis", axis)
        parts = [self.add("ReduceSum", self.slice(x, axis, *window, 1), axes, name="sum") for window in windows]
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, name="sums", axis=axis)

    def slice(self, x: str, axis: int, start: int, stop: int, step: int) -> str:
        numbers = {"start": start, "stop": stop, "axis": axis, "step": step}
        return self.add("Slice", x, *(self.integers(name, n) for name, n in numbers.items()), name="slice")

    def pad(self, x: str, before: tuple[int, ...], after: tuple[int, ...], border: np.floating) -> str:
        """Put a border around all axes but the batch."""
        pads = self.integers("pads", 0, *before, 0, *after)
        return self.add("Pad", x, pads, self.constant("border", border), name="padded")

    def pad_safely(self, x: str, before: tuple[int, ...], after: tuple[int, ...], border: np.float32) -> str:
        """Put a border around all axes but the batch, before something that may be a max pool.

        onnxruntime (1.31) merges zeros around height and width into the border of a max pool, which is minus infinity.
        It leaves alone what pads the channels, so one channel more is made and cut off.
        """
        if before[0] or after[0]:
            return self.pad(x, before, after, border)
        padded = self.pad(x, (1, *before[1:]), after, border)
        return self.slice(padded, 1, 1, LAST, 1)


def _sizes(heights: list[Window], widths: list[Window]) -> np.ndarray:
    """Return the pixels of each window, double; one number where all have the same."""
    down, across = (np.array([b - a for a, b in windows], np.float64) for windows in (heights, widths))
    sizes = down[:, None] * across
    return sizes[:1, :1] if np.all(sizes == sizes[0, 0]) else sizes
