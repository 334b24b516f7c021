"""A file to logits: the order of nodes, batches, threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from asqcli.artifact import Artifact, read_artifact
from asqcli.artifact.document import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Clamp,
    Concat,
    Conv,
    Gate,
    Linear,
    MaxPool,
    Mul,
    Pad,
    Reshape,
    Slice,
    Transpose,
)
from asqcli.engine import operations
from asqcli.engine.kernels import Layer, make_kernel
from asqcli.errors import InputError

BATCH_NUMBERS = 2**23  # of all values held at one time: 32 MiB, about the size of a cache
LARGEST_BATCH = 64

Observer = Callable[[str, np.ndarray, np.ndarray], None]


def load(path: str | Path, *, kernel: str = "auto", threads: int = 1) -> Session:
    """Return a session on an exported file.

    Args:
        kernel: auto, matmul or shift-lut.
        threads: batches that are computed at the same time.
    Raises:
        InputError: the file is missing, corrupt or inconsistent.
        UsageError: there is no such kernel.
    """
    return Session(read_artifact(Path(path)), kernel=kernel, threads=threads)


class Session:
    """A network, ready to run.

    Args:
        artifact: read or exported.
        kernel: its name, see `make_kernel`.
        threads: batches that are computed at the same time.
    """

    def __init__(self, artifact: Artifact, *, kernel: str = "auto", threads: int = 1) -> None:
        self.artifact, self.threads = artifact, threads
        self.kernel = make_kernel(kernel)
        self.layers = {
            index: _QuantizedLayer(artifact, node, self.kernel)
            for index, node in enumerate(artifact.document.nodes)
            if isinstance(node, Conv | Linear)
        }
        self.batch = max(1, min(LARGEST_BATCH, BATCH_NUMBERS // artifact.plan.live))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return (3, height, width) of one input."""
        return self.artifact.plan.shapes[0]

    def run(self, images: np.ndarray, *, observe: Observer | None = None) -> np.ndarray:
        """Return the logits, (N, classes) float32. A sample's logits do not depend on the others.

        Args:
            images: normalised, (N, 3, height, width) float32.
            observe: called with (layer, codes, accumulators) for each quantized layer and part of the batch.
        Raises:
            InputError: images of another shape, or values beyond float32.
        """
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            raise InputError(f"the network takes images of shape {self.input_shape}, not {images.shape[1:]}")
        parts = [images[first : first + self.batch] for first in range(0, len(images), self.batch)]
        with np.errstate(all="ignore"):  # a file may hold values that overflow; that is told below
            if observe is not None or self.threads == 1 or len(parts) <= 1:
                logits = [self._run_part(part, observe) for part in parts]
            else:
                # Parts side by side, each with a thread of its own: faster than threads inside each matrix product.
                with threadpool_limits(1), ThreadPoolExecutor(self.threads) as pool:
                    logits = list(pool.map(self._run_part, parts))
        result = np.concatenate(logits) if logits else np.empty((0, len(self.artifact.document.classes)), np.float32)
        if not np.isfinite(result).all():
            raise InputError("the network's values leave the range of float32")
        return result

    def _run_part(self, images: np.ndarray, observe: Observer | None = None) -> np.ndarray:
        last_use = self.artifact.plan.last_use
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
            case BatchNorm():
                v = x * tensors[node.g][:, None, None]
                return np.add(v, tensors[node.b][:, None, None], out=v)
            case Clamp():
                return np.clip(x, *(None if bound is None else np.float32(bound) for bound in (node.low, node.high)))
            case Gate():
                return operations.gate(node.op, x)
            case Add():
                return x + inputs[1]
            case Mul():
                return x * inputs[1]
            case MaxPool():
                return operations.max_pool(x, node.kernel_size, node.stride, node.padding, node.dilation)
            case AvgPool():
                return operations.avg_pool(x, node.kernel_size, node.stride, node.padding, node.count_include_pad)
            case AdaptiveAvgPool():
                return operations.adaptive_avg_pool(x, node.output_size)
            case Reshape():
                return x.reshape(len(x), *node.shape)
            case Transpose():
                return x.swapaxes(node.axes[0] + 1, node.axes[1] + 1)
            case Concat():
                return np.concatenate(inputs, axis=node.axis + 1)
            case Slice():
                return x[(slice(None),) * (node.axis + 1) + (slice(node.start, node.stop, node.step),)]
            case Pad():
                return np.pad(x, ((0, 0), *zip(node.before, node.after, strict=True)))
        raise AssertionError(node)


class _QuantizedLayer:
    """A convolution or linear layer: quantize, accumulate, scale, add the bias."""

    def __init__(self, artifact: Artifact, node: Conv | Linear, kernel) -> None:
        self.name, self.kernel = node.name, kernel
        self.quantize = operations.Quantizer(node.activations, artifact.tensors)
        self.scale = artifact.tensors[node.weights.scale]
        self.bias = None if node.weights.bias is None else artifact.tensors[node.weights.bias]
        levels = artifact.levels(node.weights)
        conv = isinstance(node, Conv)
        self.layer = Layer(
            levels if conv else levels[:, :, None, None],
            stride=node.stride if conv else (1, 1),
            padding=node.padding if conv else (0, 0, 0, 0),
            dilation=node.dilation if conv else (1, 1),
            groups=node.groups if conv else 1,
            qmin=node.activations.qmin,
            qmax=node.activations.qmax,
            largest_sum=artifact.largest_sum(node),
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
