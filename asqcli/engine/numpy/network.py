"""A network on a NumPy kernel, node after node."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from asqcli.artifact import Artifact, nodes
from asqcli.engine.interface import Kernel, Layer, Observer
from asqcli.engine.numpy import operations

BATCH_NUMBERS = 2**23  # of all values held at one time: 32 MiB, about the size of a cache
LARGEST_BATCH = 64


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
        with np.errstate(all="ignore"):  # a file may hold values that overflow; the session tells of that
            if observe is not None or self.threads == 1 or len(parts) <= 1:
                return np.concatenate([self._run_part(part, observe) for part in parts])
            # Parts side by side, each with a thread of its own: faster than threads inside each matrix product.
            with threadpool_limits(1), ThreadPoolExecutor(self._workers) as pool:
                return np.concatenate(list(pool.map(self._run_part, parts)))

    def _run_part(self, images: np.ndarray, observe: Observer | None = None) -> np.ndarray:
        last_use = self.artifact.graph.last_use
        values: dict[int, np.ndarray] = {0: np.asarray(images, np.float32)}
        for index, node in enumerate(self.artifact.document.nodes):
            inputs = [values[value] for value in node.inputs]
            if index in self.layers:
                result = self.layers[index](inputs[0], observe)
            else:
                result = self._compute(node, inputs)
            values[index + 1] = result
            for value in {*node.inputs, index + 1}:
                if last_use[value] <= index:
                    values.pop(value, None)
        return values[len(self.artifact.document.nodes)]

    def _compute(self, node, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the value of a node without codes."""
        x, tensors = inputs[0], self.artifact.tensors
        match node:
            case nodes.BatchNorm():
                v = x * tensors[node.g][:, None, None]
                return np.add(v, tensors[node.b][:, None, None], out=v)
            case nodes.Clamp(low=None, high=None):
                return x  # NumPy 1 refuses to clip without a bound
            case nodes.Clamp():
                return np.clip(x, *(None if bound is None else np.float32(bound) for bound in (node.low, node.high)))
            case nodes.Gate():
                return operations.gate(node.op, x)
            case nodes.Add():
                return x + inputs[1]
            case nodes.Mul():
                return x * inputs[1]
            case nodes.MaxPool():
                return operations.max_pool(x, node.kernel_size, node.stride, node.padding, node.dilation)
            case nodes.AvgPool():
                return operations.avg_pool(
                    x, node.kernel_size, node.stride, node.padding, count_include_pad=node.count_include_pad
                )
            case nodes.AdaptiveAvgPool():
                return operations.adaptive_avg_pool(x, node.output_size)
            case nodes.Reshape():
                return x.reshape(len(x), *node.shape)
            case nodes.Transpose():
                return x.swapaxes(node.axes[0] + 1, node.axes[1] + 1)
            case nodes.Concat():
                return np.concatenate(inputs, axis=node.axis + 1)
            case nodes.Slice():
                # A copy: a view would keep all of `x` in memory beyond its last use.
                return x[(slice(None),) * (node.axis + 1) + (slice(node.start, node.stop, node.step),)].copy("K")
            case nodes.Pad():
                return np.pad(x, ((0, 0), *zip(node.before, node.after, strict=True)))
        raise AssertionError(node)


def batch_size(artifact: Artifact) -> int:
    """Return how many images are computed together: as many as leave their values in the cache."""
    return max(1, min(LARGEST_BATCH, BATCH_NUMBERS // artifact.graph.live))


class _QuantizedLayer:
    """A convolution or linear layer: quantize, accumulate, scale, add the bias."""

    def __init__(self, artifact: Artifact, node: nodes.Conv | nodes.Linear, kernel) -> None:
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
