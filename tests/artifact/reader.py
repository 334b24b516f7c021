"""A reader of `.asq` files in plain Python, written from FORMAT.md alone: slow, and by none of asqcli's code.

A value is a dict from the place of each number, such as (channel, row, column), to the number; and its shape.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from typing import Any

import numpy as np

f32 = np.float32
Value = tuple[dict[tuple[int, ...], Any], tuple[int, ...]]


class Reader:
    """Section by section."""

    def __init__(self, content: bytes) -> None:
        length = struct.unpack("<Q", content[:8])[0]
        self.header, self.data = json.loads(content[8 : 8 + length]), content[8 + length :]
        self.document = json.loads(self.header["__metadata__"]["asq"])

    def tensor(self, name: str) -> list:
        entry = self.header[name]
        first, end = entry["data_offsets"]
        letter = {"F32": "f", "I8": "b", "U8": "B"}[entry["dtype"]]
        return [v[0] for v in struct.iter_unpack("<" + letter, self.data[first:end])]

    def run(self, image: np.ndarray) -> np.ndarray:
        """Return the logits of one image, (3, size, size)."""
        return np.array(list(self.values(image)[-1][0].values()), np.float32)

    def values(self, image: np.ndarray) -> list[Value]:
        """Return all values of one image, (3, size, size)."""
        values: list[Value] = [({place: f32(v) for place, v in np.ndenumerate(image)}, image.shape)]
        for node in self.document["nodes"]:
            values.append(getattr(self, node["op"])(node, *(values[i] for i in node["inputs"])))
        return values

    # Quantized layers

    def weights(self, weights: dict) -> list[int]:
        number, bits = int.from_bytes(bytes(self.tensor(weights["codes"])), "little"), weights["code_bits"]
        levels = self.tensor(weights["levels"])
        return [levels[number >> (bits * k) & (2**bits - 1)] for k in range(math.prod(weights["shape"]))]

    def beta(self, adapter: dict, h: list[float]) -> np.float32:
        for index, layer in enumerate(adapter["layers"]):
            if index:
                h = [max(v, 0.0) for v in h]
            weight, bias = self.tensor(layer["weight"]), self.tensor(layer["bias"])
            scale = [1.0] * len(bias) if layer["row_scale"] is None else self.tensor(layer["row_scale"])
            rows = []
            for o in range(layer["outputs"]):
                lane = [0.0] * 8
                for i, v in enumerate(h):
                    lane[i % 8] = lane[i % 8] + v * weight[o * len(h) + i]
                lane = [lane[j] + lane[j + 4] for j in range(4)]
                lane = [lane[j] + lane[j + 2] for j in range(2)]
                rows.append((lane[0] + lane[1]) * scale[o] + bias[o])
            h = rows
        (t,) = h
        if adapter["output"] == "relu":
            return f32(max(max(t, 0.0), 1e-8))
        return f32(1 + t if t >= 0 else 1 / (1 - t))

    def conv(self, node: dict, value: Value) -> Value:
        return self.product(node, value, node)

    def linear(self, node: dict, value: Value) -> Value:
        geometry = {"stride": (1, 1), "padding": (0,) * 4, "dilation": (1, 1), "groups": 1}
        made, shape = self.product(node, value, geometry)
        return {place[:1]: v for place, v in made.items()}, shape[:1]

    def product(self, node: dict, value: Value, geometry: dict) -> Value:
        (x, shape), activations, weights = value, node["activations"], node["weights"]
        _, height, width = (*shape, 1, 1)[:3]
        step_size = f32(self.tensor(activations["step_size"])[0])
        step = step_size
        if activations["adapter"] is not None:
            means = x if len(shape) == 1 else adaptive_means(value, (1, 1))
            step = step_size * self.beta(activations["adapter"], [float(v) for v in means.values()])
        reciprocal, low, high = f32(1) / step, activations["qmin"], activations["qmax"]
        code = {(*k, 0, 0)[:3]: int(min(max(np.rint(v * reciprocal), low), high)) for k, v in x.items()}
        used = step_size if activations["dequantize_by"] == "step_size" else step
        w, scale = self.weights(weights), [f32(s) for s in self.tensor(weights["scale"])]
        bias = None if weights["bias"] is None else [f32(v) for v in self.tensor(weights["bias"])]
        outputs, per_group, kernel_h, kernel_w = (*weights["shape"], 1, 1)[:4]
        (sy, sx), (top, left, bottom, right) = geometry["stride"], geometry["padding"]
        (dy, dx), groups = geometry["dilation"], geometry["groups"]
        rows, columns = (
            windows(height + top + bottom, kernel_h, sy, dy),
            windows(width + left + right, kernel_w, sx, dx),
        )
        made = {}
        for o, y, c in itertools.product(range(outputs), range(rows), range(columns)):
            first, acc = o // (outputs // groups) * per_group, 0
            for k, i, j in itertools.product(range(per_group), range(kernel_h), range(kernel_w)):
                at = (first + k, y * sy + i * dy - top, c * sx + j * dx - left)
                acc += code.get(at, 0) * w[((o * per_group + k) * kernel_h + i) * kernel_w + j]
            v = f32(acc) * (used * scale[o if weights["scale_per"] == "channel" else 0])
            made[o, y, c] = v if bias is None else v + bias[o]
        return made, (outputs, rows, columns)

    # The others

    def batch_norm(self, node: dict, value: Value) -> Value:
        (x, shape), g, b = value, self.tensor(node["g"]), self.tensor(node["b"])
        return {k: v * f32(g[k[0]]) + f32(b[k[0]]) for k, v in x.items()}, shape

    def div(self, node: dict, value: Value) -> Value:
        divisor = self.tensor(node["divisor"])
        return {k: v / f32(divisor[k[0]]) for k, v in value[0].items()}, value[1]

    def clamp(self, node: dict, value: Value) -> Value:
        (x, shape), low, high = value, node["low"], node["high"]
        x = x if low is None else {k: max(v, f32(low)) for k, v in x.items()}
        return x if high is None else {k: min(v, f32(high)) for k, v in x.items()}, shape

    def sigmoid(self, node: dict, value: Value) -> Value:
        return {k: sigmoid(v) for k, v in value[0].items()}, value[1]

    def silu(self, node: dict, value: Value) -> Value:
        return {k: v * sigmoid(v) for k, v in value[0].items()}, value[1]

    def hardsigmoid(self, node: dict, value: Value) -> Value:
        return {k: hardsigmoid(v) for k, v in value[0].items()}, value[1]

    def hardswish(self, node: dict, value: Value) -> Value:
        return {k: v * hardsigmoid(v) for k, v in value[0].items()}, value[1]

    def gelu(self, node: dict, value: Value) -> Value:
        return {k: v * cdf(v) for k, v in value[0].items()}, value[1]

    def gelu_tanh(self, node: dict, value: Value) -> Value:
        made = {}
        for k, v in value[0].items():
            x = float(v)
            y = abs(x) * (x * x * 0.07135481627260025 + 1.5957691216057308)
            e = exp_of_negative(min(y, 700.0))
            made[k] = v * f32(1 / (1 + e) if x >= 0 else e / (1 + e))
        return made, value[1]

    def leaky_relu(self, node: dict, value: Value) -> Value:
        slope = f32(node["negative_slope"])
        return {k: v if v > 0 else v * slope for k, v in value[0].items()}, value[1]

    def prelu(self, node: dict, value: Value) -> Value:
        slope, per_channel = self.tensor(node["slope"]), node["slope_per"] == "channel"
        return {k: v if v > 0 else v * f32(slope[k[0] * per_channel]) for k, v in value[0].items()}, value[1]

    def add(self, node: dict, first: Value, second: Value) -> Value:
        return {k: v + second[0][k] for k, v in first[0].items()}, first[1]

    def mul(self, node: dict, first: Value, second: Value) -> Value:
        same = first[1] == second[1]
        return {k: v * second[0][k if same else (k[0], 0, 0)] for k, v in first[0].items()}, first[1]

    def max_pool(self, node: dict, value: Value) -> Value:
        (x, shape), (kernel_h, kernel_w), (sy, sx) = value, node["kernel_size"], node["stride"]
        (top, left, bottom, right), (dy, dx) = node["padding"], node["dilation"]
        rows = windows(shape[1] + top + bottom, kernel_h, sy, dy)
        columns = windows(shape[2] + left + right, kernel_w, sx, dx)
        made = {}
        for c, y, z in itertools.product(range(shape[0]), range(rows), range(columns)):
            taps = itertools.product(range(kernel_h), range(kernel_w))
            places = ((c, y * sy + i * dy - top, z * sx + j * dx - left) for i, j in taps)
            made[c, y, z] = max(x.get(at, f32(-math.inf)) for at in places)
        return made, (shape[0], rows, columns)

    def avg_pool(self, node: dict, value: Value) -> Value:
        (x, shape), (kernel_h, kernel_w), (sy, sx) = value, node["kernel_size"], node["stride"]
        down, across = node["padding"]
        rows, columns = windows(shape[1] + 2 * down, kernel_h, sy), windows(shape[2] + 2 * across, kernel_w, sx)
        made = {}
        for c, y, z in itertools.product(range(shape[0]), range(rows), range(columns)):
            window = [[(c, y * sy + i - down, z * sx + j - across) for j in range(kernel_w)] for i in range(kernel_h)]
            values = sum(at in x for row in window for at in row)
            values = kernel_h * kernel_w if node["count_include_pad"] else max(values, 1)
            made[c, y, z] = mean([[x.get(at, f32(0)) for at in row] for row in window], values)
        return made, (shape[0], rows, columns)

    def adaptive_avg_pool(self, node: dict, value: Value) -> Value:
        return adaptive_means(value, node["output_size"]), (value[1][0], *node["output_size"])

    def reshape(self, node: dict, value: Value) -> Value:
        return dict(zip(places(node["shape"]), in_order(value), strict=True)), tuple(node["shape"])

    def transpose(self, node: dict, value: Value) -> Value:
        def swapped(place):
            place, (a, b) = list(place), node["axes"]
            place[a], place[b] = place[b], place[a]
            return tuple(place)

        return sorted_by_place({swapped(k): v for k, v in value[0].items()}, swapped(value[1]))

    def concat(self, node: dict, *values: Value) -> Value:
        made, axis, side = {}, node["axis"], 0
        for x, shape in values:
            made |= {(*k[:axis], k[axis] + side, *k[axis + 1 :]): v for k, v in x.items()}
            side += shape[axis]
        return sorted_by_place(made, (*shape[:axis], side, *shape[axis + 1 :]))

    def slice(self, node: dict, value: Value) -> Value:
        (x, shape), axis = value, node["axis"]
        kept = range(node["start"], node["stop"], node["step"])
        made = {(*k[:axis], kept.index(k[axis]), *k[axis + 1 :]): v for k, v in x.items() if k[axis] in kept}
        return made, (*shape[:axis], len(kept), *shape[axis + 1 :])

    def pad(self, node: dict, value: Value) -> Value:
        (x, shape), before = value, node["before"]
        sides = tuple(b + n + a for b, n, a in zip(before, shape, node["after"], strict=True))
        inside = (tuple(i - b for i, b in zip(place, before, strict=True)) for place in places(sides))
        return {place: x.get(at, f32(0)) for place, at in zip(places(sides), inside, strict=True)}, sides


def windows(pixels: int, kernel: int, stride: int, dilation: int = 1) -> int:
    return (pixels - dilation * (kernel - 1) - 1) // stride + 1


def places(shape):
    return itertools.product(*map(range, shape))


def in_order(value: Value) -> list:
    x, shape = value
    return [x[place] for place in places(shape)]


def sorted_by_place(x: dict, shape: tuple[int, ...]) -> Value:
    return {place: x[place] for place in places(shape)}, shape


def mean(rows: list[list[np.float32]], values: int) -> np.float32:
    total = 0.0
    for row in rows:
        sum_of_row = 0.0
        for v in row:
            sum_of_row = sum_of_row + float(v)
        total = total + sum_of_row
    return f32(total / values)


def adaptive_means(value: Value, output_size) -> dict:
    (x, shape), made = value, {}
    for place in places((shape[0], *output_size)):
        sides = zip(place[1:], shape[1:], output_size, strict=True)
        (top, bottom), (left, right) = ((i * n // o, -(-(i + 1) * n // o)) for i, n, o in sides)
        rows = [[x[place[0], i, j] for j in range(left, right)] for i in range(top, bottom)]
        made[place] = mean(rows, (bottom - top) * (right - left))
    return made


def exp_of_negative(y: float) -> float:
    k = round(y * 1.4426950408889634)
    r = (k * 0.6931471803691238 - y) + k * 1.9082149292705877e-10
    p = 1 / math.factorial(12)
    for n in range(11, -1, -1):
        p = p * r + 1 / math.factorial(n)
    return p * 2.0**-k


def sigmoid(x: np.float32) -> np.float32:
    e = exp_of_negative(min(abs(float(x)), 700.0))
    return f32(1 / (1 + e) if x >= 0 else e / (1 + e))


def cdf(x: np.float32) -> np.float32:
    y = min(abs(float(x)), 16.0)
    e, s = exp_of_negative(y * y * 0.5), 4 / (4 + y)
    a = (0.007906073929109126, -0.06481483250239566, 0.22377792879563507, -0.4152184417996558, 0.45187465105400676,
         -0.3382994855315742, 0.20957415295128307, -0.028891879464000243, 0.08348651736011863, 0.07717488472096533,
         0.09399543858754178, 0.09969814867746007, 0.0997368432199058)  # fmt: skip
    p = a[0]
    for coefficient in a[1:]:
        p = p * s + coefficient
    tail = p * s * e
    return f32(tail if x < 0 else 1 - tail)


def hardsigmoid(x: np.float32) -> np.float32:
    return min(max(x + f32(3), f32(0)), f32(6)) * f32(1 / 6)
