"""A network on a NumPy kernel, node after node."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from asqcli.artifact import Artifact, nodes
from asqcli.engine.interface import Kernel, Layer, Observer
from asqcli.engine.numpy import operations

BATCH_NUMBERS = 2**23  # numbers in all values held at one time: 32 MiB, about the size of a cache
LARGEST_BATCH = 64

Tensors = dict[str, np.ndarray]


class NumpyNetwork:
    """Runs any artifact.

    Args:
        kernel: the one that computes the accumulators.
        threads: parts of a batch that are computed at the same time.
    """

    def __init__(self, artifact: Artifact, kernel: Kernel, threads: int) -> None:
        self.artifact, self.threads = artifact, threads
        self.layers = {
            index: _QuantizedLayer(artifact, node, kernel)
            for index, node in enumerate(artifact.document.nodes)
            if isinstance(node, nodes.Conv | nodes.Linear)
        }

    @property
    def _workers(self) -> int:
        """Return the threads to use: fewer where one image takes more memory than a batch should."""
        return max(1, min(self.threads, self.threads * BATCH_NUMBERS // self.artifact.graph.live))

    def run(self, images: np.ndarray, observe: Observer | None = None) -> np.ndarray:
        """Return the logits, (N, classes); see `Session.run`."""
        batch = batch_size(self.artifact)
        parts = [images[first : first + batch] for first in range(0, len(images), batch)]
        if observe is not None or self.threads == 1 or len(parts) <= 1:
            return np.concatenate([self._run_part(part, observe) for part in parts])
        # Parts side by side, each with a thread of its own: faster than threads inside each matrix product.
        with threadpool_limits(1), ThreadPoolExecutor(self._workers) as pool:
            return np.concatenate(list(pool.map(self._run_part, parts)))

    def _run_part(self, images: np.ndarray, observe: Observer | None = None) -> np.ndarray:
        # A file may hold values that overflow; the session tells of that. Each thread has an error state of its own.
        with np.errstate(all="ignore"):
            (logits,) = deque(self.values(images, observe), maxlen=1)
        return logits

    def values(self, images: np.ndarray, observe: Observer | None = None) -> Iterator[np.ndarray]:
        """Yield each value of the graph for a few images, (N, *its shape): the images first, the logits last."""
        last_use = self.artifact.graph.last_use
        values: dict[int, np.ndarray] = {0: np.asarray(images, np.float32)}
        yield values[0]
        for index, node in enumerate(self.artifact.document.nodes):
            inputs = [values[value] for value in node.inputs]
            if index in self.layers:
                result = self.layers[index](inputs[0], observe)
            else:
                result = COMPUTE[type(node)](node, self.artifact.tensors, *inputs)
            values[index + 1] = result
            yield result
            for value in {*node.inputs, index + 1}:
                if last_use[value] <= index:
                    values.pop(value, None)


def batch_size(artifact: Artifact) -> int:
    """Return how many images are computed together: as many as leave their values in the cache."""
    return max(1, min(LARGEST_BATCH, BATCH_NUMBERS // artifact.graph.live))


class _QuantizedLayer:
    """A convolution or linear layer: quantize, accumulate, scale, add the bias."""

    def __init__(self, artifact: Artifact, node: nodes.Conv | nodes.Linear, kernel: Kernel) -> None:
        self.name, self.kernel = node.name, kernel
        self.quantize = operations.Quantizer(node.activations, artifact.tensors)
        self.scale = artifact.tensors[node.weights.scale]
        self.bias = None if node.weights.bias is None else artifact.tensors[node.weights.bias]
        weights = artifact.levels(node.weights)
        conv = isinstance(node, nodes.Conv)
        self.layer = Layer(
            weights if conv else weights[:, :, None, None],
            stride=node.stride if conv else (1, 1),
            padding=node.padding if conv else (0, 0, 0, 0),
            dilation=node.dilation if conv else (1, 1),
            groups=node.groups if conv else 1,
            qmin=node.activations.qmin,
            qmax=node.activations.qmax,
            largest_sum=artifact.largest_sum(node, weights),
        )
        self.packed = kernel.pack(self.layer)

    def __call__(self, x: np.ndarray, observe: Observer | None) -> np.ndarray:
        codes, activation_scale = self.quantize(x)
        image = codes if codes.ndim == 4 else codes[:, :, None, None]
        accumulator = self.kernel.accumulate(image, self.layer, self.packed)
        if observe is not None:
            observe(self.name, codes, accumulator.reshape(*accumulator.shape[:2], *accumulator.shape[2 : codes.ndim]))
        v = accumulator.astype(np.float32, copy=False)
        v = v * (activation_scale * self.scale)[:, :, None, None]  # (N or 1, C_out, 1, 1)
        if self.bias is not None:
            v += self.bias[:, None, None]
        return v if x.ndim == 4 else v.reshape(len(v), math.prod(v.shape[1:]))


def _batch_norm(node: nodes.BatchNorm, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    v = x * _of_channels(tensors[node.g], x)
    return np.add(v, _of_channels(tensors[node.b], x), out=v)


def _clamp(node: nodes.Clamp, _, x: np.ndarray) -> np.ndarray:
    # Not np.clip, which gives either zero where one is the bound of the other.
    for bound, beyond in ((node.low, np.less), (node.high, np.greater)):
        if bound is not None:
            x = np.where(beyond(x, np.float32(bound)), np.float32(bound), x)
    return x


def _leak(x: np.ndarray, slope: np.ndarray | np.floating) -> np.ndarray:
    return np.where(x > 0, x, x * slope)


def _of_channels(numbers: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return a number for each channel, or one for all, in a shape that goes with `x`."""
    return numbers.reshape(-1, *[1] * (x.ndim - 2))


def _avg_pool(node: nodes.AvgPool, _, x: np.ndarray) -> np.ndarray:
    sides = node.kernel_size, node.stride, node.padding
    return operations.avg_pool(x, *sides, count_include_pad=node.count_include_pad)


def _slice(node: nodes.Slice, _, x: np.ndarray) -> np.ndarray:
    # A copy: a view would keep all of `x` in memory beyond its last use.
    return x[(slice(None),) * (node.axis + 1) + (slice(node.start, node.stop, node.step),)].copy("K")


def _quantized_layer(node: nodes.QuantizedLayer, *_) -> np.ndarray:
    raise AssertionError(f"`{node.name}` is run by its `_QuantizedLayer`")


# The value of a node from the artifact's tensors and the values that it reads.
COMPUTE: dict[type[nodes.Node], Callable[..., np.ndarray]] = nodes.for_every_kind(
    {
        nodes.Conv: _quantized_layer,
        nodes.Linear: _quantized_layer,
        nodes.BatchNorm: _batch_norm,
        nodes.Clamp: _clamp,
        nodes.Div: lambda node, tensors, x: x / _of_channels(tensors[node.divisor], x),
        nodes.Gate: lambda node, _, x: operations.gate(node.op, x),
        nodes.LeakyRelu: lambda node, _, x: _leak(x, np.float32(node.negative_slope)),
        nodes.PRelu: lambda node, tensors, x: _leak(x, _of_channels(tensors[node.slope], x)),
        nodes.Add: lambda _node, _, x, y: x + y,
        nodes.Mul: lambda _node, _, x, y: x * y,
        nodes.MaxPool: lambda node, _, x: operations.max_pool(
            x, node.kernel_size, node.stride, node.padding, node.dilation
        ),
        nodes.AvgPool: _avg_pool,
        nodes.AdaptiveAvgPool: lambda node, _, x: operations.adaptive_avg_pool(x, node.output_size),
        nodes.Reshape: lambda node, _, x: x.reshape(len(x), *node.shape),
        nodes.Transpose: lambda node, _, x: x.swapaxes(node.axes[0] + 1, node.axes[1] + 1),
        nodes.Concat: lambda node, _, *values: np.concatenate(values, axis=node.axis + 1),
        nodes.Slice: _slice,
        nodes.Pad: lambda node, _, x: np.pad(x, ((0, 0), *zip(node.before, node.after, strict=True))),
    }
)
