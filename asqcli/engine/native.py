"""The native kernels: a network as a plan of fused steps, run in C (see csrc/kernel.h).

A plan is made for one image; each thread has one of its own, so that images run side by side. Values lie channels last.
A convolution takes the batch norm, the sum and the clamp that follow it into its epilogue. A node that there is no step
for raises NotNative, and a NumPy kernel runs the network instead.
"""

from __future__ import annotations

import ctypes
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from asqcli.artifact import Artifact
from asqcli.artifact.document import (
    AdaptiveAvgPool,
    Add,
    BatchNorm,
    Clamp,
    Concat,
    Conv,
    Linear,
    MaxPool,
    Pad,
    Reshape,
    Slice,
)
from asqcli.engine.numpy_network import Observer

BLOCK, DEPTH, LANES, MOST_TAPS = 16, 4, 8, 1024
CONV, ELEMENTWISE, MAX_POOL, MEAN, COPY = range(5)
LIBRARY = "_native"
WORTH_A_TEAM = 10**8  # multiply-adds of an image; below, threads would wait for each other longer than they work

_int, _float, _pointer = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class _AdapterLayer(ctypes.Structure):
    _fields_ = (("weight", _pointer), ("row_scale", _pointer), ("bias", _pointer), ("inputs", ctypes.c_int),
                ("outputs", ctypes.c_int))  # fmt: skip


class _Op(ctypes.Structure):
    """As `Op` in kernel.h, field for field."""

    _fields_ = (
        ("kind", _int), ("x", _pointer), ("y", _pointer), ("out", _pointer),
        ("height", _int), ("width", _int), ("channels", _int), ("out_h", _int), ("out_w", _int), ("outputs", _int),
        ("kernel_h", _int), ("kernel_w", _int), ("stride_h", _int), ("stride_w", _int), ("dilation_h", _int),
        ("dilation_w", _int), ("groups", _int), ("top", _int), ("left", _int), ("bottom", _int), ("right", _int),
        ("qmin", _int), ("qmax", _int), ("as_printed", _int), ("beta_output", _int), ("step_size", _float),
        ("adapter_layers", _int), ("depthwise", _int), ("merged", _int), ("raw", _int),
        ("adapter", _AdapterLayer * 2), ("codes", _pointer), ("sums", _pointer), ("means", _pointer),
        ("scale", _pointer), ("packed", _pointer), ("weight_scale", _pointer),
        ("compensation", _pointer), ("bias", _pointer), ("g", _pointer), ("b", _pointer), ("low", _float),
        ("high", _float), ("box", _int * 3), ("from_stride", _int * 3), ("to_stride", _int * 3),
    )  # fmt: skip


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where the package was installed without a compiler."""
    found = sorted(Path(__file__).parent.glob(f"{LIBRARY}*.so"))
    if not found:
        return None
    try:
        loaded = ctypes.CDLL(str(found[0]))
    except OSError:
        return None
    loaded.asq_op_size.restype = ctypes.c_size_t
    loaded.asq_kernel_name.restype = ctypes.c_char_p
    loaded.asq_run.argtypes = (ctypes.c_int, ctypes.POINTER(_Op), ctypes.c_int)
    loaded.asq_run_together.argtypes = (*loaded.asq_run.argtypes, ctypes.c_int, ctypes.c_int, _pointer)
    loaded.asq_run.restype = loaded.asq_run_together.restype = None
    assert loaded.asq_op_size() == ctypes.sizeof(_Op), "csrc/kernel.h and native.py differ"
    return loaded


@cache
def compiled_kernels() -> dict[str, tuple[int, bool]]:
    """Return name: (place, does this processor run it?) of each native kernel, the best first."""
    loaded, kernels = library(), {}
    while loaded is not None and (name := loaded.asq_kernel_name(len(kernels))) is not None:
        kernels[name.decode()] = (len(kernels), bool(loaded.asq_kernel_supported(len(kernels))))
    return kernels


class NotNative(Exception):
    """The network has a node that the native plan has no step for."""


@dataclass(eq=False)
class _Storage:
    """Memory of one value or several that are the same numbers; given back after its last use."""

    array: np.ndarray
    uses: int = 0
    reusable: bool = True


@dataclass
class _Step:
    """A convolution or elementwise step with what it takes into its epilogue."""

    result: int
    g: str | None = None
    b: str | None = None
    other: int | None = None
    low: float = -math.inf
    high: float = math.inf
    taken: list[int] = field(default_factory=list)


class Plan:
    """A network's steps with their memory, for one image at a time.

    Args:
        artifact: checked.
        shared: packed weights and the like by name, made by the first plan and shared by all.
    Raises:
        NotNative: see above.
    """

    def __init__(self, artifact: Artifact, shared: dict[str, np.ndarray]) -> None:
        self.artifact, self.shared = artifact, shared
        self.nodes, self.shapes = artifact.document.nodes, artifact.plan.shapes
        self.consumers: list[list[int]] = [[] for _ in self.shapes]
        for index, node in enumerate(self.nodes):
            for value in node.inputs:
                self.consumers[value].append(index)
        self.kept: list[np.ndarray] = []  # what the steps point to
        self.free: list[np.ndarray] = []
        self.values: dict[int, _Storage] = {}
        self.steps: list[_Op] = []
        self.layers: list[tuple[str, np.ndarray, Conv | Linear]] = []  # of each conv step: name, codes, node
        self._new_value(0, reusable=False)
        fused: set[int] = set()
        for index in range(len(self.nodes)):
            if index not in fused:
                fused |= self._add(index)
        self.input = self.values[0].array
        self.output = self.values[len(self.nodes)].array[: len(artifact.document.classes)]
        self.ops = (_Op * len(self.steps))(*self.steps)

    def _add(self, index: int) -> set[int]:
        """Add the steps of a node; return the nodes after it that they do as well."""
        node = self.nodes[index]
        match node:
            case Conv() | Linear():
                step = self._fuse(index)
                self._add_conv(node, step)
            case BatchNorm() | Add() | Clamp():
                step = self._fuse(index)
                self._add_elementwise(node, step)
            case _:
                step = _Step(index + 1)
                self._add_other(node, index + 1)
        for value in {i for n in (index, *step.taken) for i in self.nodes[n].inputs} & self.values.keys():
            self._release(value, sum(value in self.nodes[n].inputs for n in (index, *step.taken)))
        return set(step.taken)

    # Fusion

    def _fuse(self, index: int) -> _Step:
        """Return a node with the batch norm, sum and clamp that follow it, each at most once and in this order."""
        step, node = _Step(index + 1), self.nodes[index]
        if isinstance(node, BatchNorm):
            step.g, step.b = node.g, node.b
        elif isinstance(node, Add):
            step.other = node.inputs[1]
        elif isinstance(node, Clamp):
            self._take_clamp(step, node)
            return step
        while len(self.consumers[step.result]) == 1:
            following = self.consumers[step.result][0]
            node = self.nodes[following]
            others = [value for value in node.inputs if value != step.result]
            if isinstance(node, BatchNorm) and step.g is None and step.other is None:
                step.g, step.b = node.g, node.b
            elif isinstance(node, Add) and step.other is None and len(others) == 1 and others[0] in self.values:
                step.other = others[0]
            elif isinstance(node, Clamp):
                self._take_clamp(step, node)
                self._take(step, following)
                break
            else:
                break
            self._take(step, following)
        return step

    @staticmethod
    def _take(step: _Step, following: int) -> None:
        step.taken.append(following)
        step.result = following + 1

    @staticmethod
    def _take_clamp(step: _Step, node: Clamp) -> None:
        step.low = -math.inf if node.low is None else node.low
        step.high = math.inf if node.high is None else node.high

    # Memory

    def _new_value(self, value: int, *, reusable: bool = True) -> np.ndarray:
        """Return memory for a value, the smallest free piece that holds it."""
        size = math.prod(self.shapes[value])
        fitting = [array for array in self.free if array.size >= size] if reusable else []
        if fitting:
            array = min(fitting, key=lambda a: a.size)
            self.free = [a for a in self.free if a is not array]
        else:
            array = self._keep(np.zeros(size, np.float32))
        last = value == len(self.nodes)
        self.values[value] = _Storage(array, len(self.consumers[value]) + last, reusable and not last)
        return array

    def _alias(self, value: int, of: int) -> None:
        storage = self.values[value] = self.values[of]
        storage.uses += len(self.consumers[value])
        if value == len(self.nodes):
            storage.uses += 1

    def _release(self, value: int, uses: int) -> None:
        storage = self.values[value]
        storage.uses -= uses
        if storage.uses == 0 and storage.reusable:
            self.free.append(storage.array)

    def _keep(self, array: np.ndarray) -> np.ndarray:
        self.kept.append(array)
        return array

    def _point(self, array: np.ndarray) -> int:
        return self._keep(array).ctypes.data

    def _shared(self, name: str, make) -> int:
        """Return the address of an array that all plans share."""
        if name not in self.shared:
            self.shared[name] = self._keep(np.ascontiguousarray(make()))
        return self.shared[name].ctypes.data

    def _value(self, value: int) -> int:
        return self.values[value].array.ctypes.data

    def _image(self, value: int) -> tuple[int, int, int]:
        """Return (channels, height, width) of a value."""
        shape = self.shapes[value]
        if len(shape) == 1:
            return shape[0], 1, 1
        if len(shape) != 3:
            raise NotNative(f"a value of shape {shape}")
        return shape

    # Steps

    def _op(self, kind: int, source: int, result: int, **settings) -> _Op:
        channels, height, width = self._image(source)
        outputs, out_h, out_w = self._image(result)
        x = self._value(source)
        return _Op(
            kind=kind, x=x, height=height, width=width, channels=channels, outputs=outputs, out_h=out_h, out_w=out_w,
            low=-math.inf, high=math.inf, groups=1, **settings,
        )  # fmt: skip

    def _epilogue(self, op: _Op, step: _Step, groups: int) -> None:
        if step.g is not None:
            tensors = self.artifact.tensors
            op.g = self._shared(f"{step.g}/{groups}", lambda: _by_group(tensors[step.g], groups))
            op.b = self._shared(f"{step.b}/{groups}", lambda: _by_group(tensors[step.b], groups))
        op.low, op.high = step.low, step.high
        op.y = None if step.other is None else self._value(step.other)
        op.out = self._new_value(step.result).ctypes.data
        self.steps.append(op)

    def _add_elementwise(self, node, step: _Step) -> None:
        op = self._op(ELEMENTWISE, node.inputs[0], step.result)
        self._epilogue(op, step, groups=0)

    def _add_conv(self, node: Conv | Linear, step: _Step) -> None:
        activations, weights, tensors = node.activations, node.weights, self.artifact.tensors
        conv = isinstance(node, Conv)
        channels, height, width = self._image(node.inputs[0])
        outputs, per_group, kernel_h, kernel_w = (*weights.shape, 1, 1)[:4]
        groups = node.groups if conv else 1
        top, left, bottom, right = node.padding if conv else (0, 0, 0, 0)
        depthwise = groups > 1 and per_group == 1
        if depthwise and kernel_h * kernel_w > MOST_TAPS:
            raise NotNative(f"a depthwise window of {kernel_h}x{kernel_w} (`{node.name}`)")
        merged = groups == 1 and per_group % DEPTH != 0 and (not conv or node.dilation[1] == 1)
        parts = 0 if depthwise else groups  # of the arrays over outputs
        pixel = channels if depthwise or merged else groups * _padded(per_group, DEPTH)
        padded = (height + top + bottom, width + left + right, pixel)
        memory = self._keep(np.full(math.prod(padded) + BLOCK, -activations.qmin, np.uint8))
        codes = memory[: math.prod(padded)].reshape(padded)
        self.layers.append((node.name, codes[top : top + height, left : left + width], node))
        key = weights.codes

        def levels() -> np.ndarray:
            return self.artifact.levels(weights).reshape(outputs, per_group, kernel_h, kernel_w)

        def packed_weights() -> np.ndarray:
            if depthwise:
                return _pack_depthwise(levels())
            if merged:  # a row of the window, pixels of all channels, is one run of channels
                return pack(levels().transpose(0, 3, 1, 2).reshape(outputs, -1, kernel_h, 1), groups)
            return pack(levels(), groups)

        def compensation() -> np.ndarray:
            return _by_group(activations.qmin * levels().sum(axis=(1, 2, 3), dtype=np.int32), parts)

        def scale() -> np.ndarray:
            return _by_group(np.broadcast_to(tensors[weights.scale], outputs), parts)

        op = self._op(
            CONV, node.inputs[0], step.result,
            kernel_h=kernel_h, kernel_w=kernel_w, top=top, left=left, bottom=bottom, right=right,
            qmin=activations.qmin, qmax=activations.qmax, step_size=float(tensors[activations.step_size][0]),
            as_printed=activations.dequantize_by == "step_size", depthwise=depthwise, merged=merged,
            packed=self._shared(key, packed_weights),
            weight_scale=self._shared(weights.scale, scale),
            compensation=self._shared(f"{key}/compensation", compensation),
            codes=codes.ctypes.data, scale=self._point(np.zeros(_padded(outputs, BLOCK) + groups * BLOCK, np.float32)),
        )  # fmt: skip
        (op.stride_h, op.stride_w), (op.dilation_h, op.dilation_w) = (
            (node.stride, node.dilation) if conv else ((1, 1), (1, 1))
        )
        op.groups = groups
        if weights.bias is not None:
            op.bias = self._shared(weights.bias, lambda: _by_group(tensors[weights.bias], parts))
        if activations.adapter is not None:
            self._add_adapter(op, activations.adapter, channels)
        self._epilogue(op, step, parts)

    def _add_adapter(self, op: _Op, adapter, channels: int) -> None:
        tensors, inputs = self.artifact.tensors, channels
        op.adapter_layers, op.beta_output = len(adapter.layers), adapter.output == "relu"
        for place, layer in enumerate(adapter.layers):
            scale = np.ones(layer.outputs) if layer.row_scale is None else tensors[layer.row_scale]
            padding = ((0, 0), (0, -inputs % LANES))
            op.adapter[place] = _AdapterLayer(
                weight=self._shared(
                    layer.weight, lambda w=layer.weight, p=padding: np.pad(tensors[w].astype(np.float64), p)
                ),
                row_scale=self._shared(f"{layer.bias}/row_scale", lambda s=scale: s.astype(np.float64)),
                bias=self._shared(layer.bias, lambda b=layer.bias: tensors[b].astype(np.float64)),
                inputs=inputs,
                outputs=layer.outputs,
            )
            inputs = layer.outputs
        widest = _padded(max(channels, *(layer.outputs for layer in adapter.layers)), LANES)
        op.sums, op.means = (
            self._point(np.zeros(2 * channels + 3 * widest)),
            self._point(np.zeros(channels + 1, np.float32)),
        )

    def _add_other(self, node, result: int) -> None:
        source = node.inputs[0]
        match node:
            case MaxPool():
                (kernel_h, kernel_w), (stride_h, stride_w) = node.kernel_size, node.stride
                op = self._op(
                    MAX_POOL, source, result, kernel_h=kernel_h, kernel_w=kernel_w, stride_h=stride_h,
                    stride_w=stride_w, dilation_h=node.dilation[0], dilation_w=node.dilation[1], top=node.padding[0],
                    left=node.padding[1],
                )  # fmt: skip
            case AdaptiveAvgPool() if node.output_size == self._image(source)[1:]:
                return self._alias(result, source)  # windows of one pixel
            case AdaptiveAvgPool() if node.output_size == (1, 1):
                op = self._op(MEAN, source, result, sums=self._point(np.zeros(2 * self._image(source)[0])))
            case Reshape() if len(node.shape) == 1:
                _, height, width = self._image(source)
                if height * width == 1:
                    return self._alias(result, source)
                return self._copy(source, result, to_stride=(width, 1, height * width))
            case Slice():
                return self._add_slice(node, source, result)
            case Concat() if node.axis == 0:
                return self._add_concat(node, result)
            case Pad() if len(node.before) == 3:
                return self._add_pad(node, source, result)
            case _:
                raise NotNative(f"`{node.op}` (`{node.name}`)")
        op.out = self._new_value(result).ctypes.data
        self.steps.append(op)
        return None

    def _copy(
        self, source: int, result: int, *, box=None, from_at=0, from_stride=None, to_at=0, to_stride=None
    ) -> None:
        """Add a copy of a box of (rows, columns, channels); strides and places in numbers, channels last."""
        channels, height, width = self._image(source)
        out_channels, _, out_w = self._image(result)
        if result not in self.values:
            # Zeros around a box are written once, so the memory cannot be another value's in between.
            self._new_value(result, reusable=box is None)
        op = self._op(
            COPY, source, result,
            box=(_int * 3)(*(box or (height, width, channels))),
            from_stride=(_int * 3)(*(from_stride or (width * channels, channels, 1))),
            to_stride=(_int * 3)(*(to_stride or (out_w * out_channels, out_channels, 1))),
        )  # fmt: skip
        op.x = self._value(source) + 4 * from_at
        op.out = self._value(result) + 4 * to_at
        self.steps.append(op)

    def _add_slice(self, node: Slice, source: int, result: int) -> None:
        channels, _, width = self._image(source)
        out_channels, out_h, out_w = self._image(result)
        stride = [width * channels, channels, 1]
        axis = {0: 2, 1: 0, 2: 1}[node.axis]  # of (C, H, W) among (rows, columns, channels)
        from_at = node.start * stride[axis]
        stride[axis] *= node.step
        self._copy(source, result, box=(out_h, out_w, out_channels), from_at=from_at, from_stride=stride)

    def _add_concat(self, node: Concat, result: int) -> None:
        at = 0
        for source in node.inputs:
            channels, height, width = self._image(source)
            self._copy(source, result, box=(height, width, channels), to_at=at)
            at += channels

    def _add_pad(self, node: Pad, source: int, result: int) -> None:
        channels, height, width = self._image(source)
        out_channels, _, out_w = self._image(result)
        before_c, before_h, before_w = node.before
        at = (before_h * out_w + before_w) * out_channels + before_c
        self._copy(source, result, box=(height, width, channels), to_at=at)

    def run(self, kernel: int, image: np.ndarray, team: _Team | None = None) -> np.ndarray:
        """Return the logits of one image, (classes,); `image`: (3, H, W) float32."""
        channels, height, width = image.shape
        self.input.reshape(height, width, channels)[:] = image.transpose(1, 2, 0)
        if team is None:
            library().asq_run(kernel, self.ops, len(self.ops))
        else:
            team.run(kernel, self.ops)
        return self.output.copy()

    def run_observed(self, kernel: int, image: np.ndarray, observe) -> np.ndarray:
        """As `run`, step by step; tell `observe` of each layer's codes and accumulators."""
        channels, height, width = image.shape
        self.input.reshape(height, width, channels)[:] = image.transpose(1, 2, 0)
        layers = iter(self.layers)
        for op in self.ops:
            library().asq_run(kernel, ctypes.byref(op), 1)
            if op.kind == CONV:
                name, codes, node = next(layers)
                observe(name, _codes_of(codes, node), self._accumulators(kernel, op, isinstance(node, Conv)))
        return self.output.copy()

    @staticmethod
    def _accumulators(kernel: int, op: _Op, conv: bool) -> np.ndarray:
        """Run a convolution once more, without its epilogue."""
        out = np.empty((op.out_h, op.out_w, op.outputs), np.float32)
        raw = _Op.from_buffer_copy(op)
        raw.raw, raw.out, raw.low, raw.high = True, out.ctypes.data, -math.inf, math.inf
        raw.y = raw.g = raw.b = raw.bias = None
        library().asq_run(kernel, ctypes.byref(raw), 1)
        return out.transpose(2, 0, 1)[None] if conv else out[0]


def _codes_of(shifted: np.ndarray, node: Conv | Linear) -> np.ndarray:
    """Return the codes of the last image, (1, C, H, W) or (1, features), from those above qmin."""
    height, width, _ = shifted.shape
    groups = node.groups if isinstance(node, Conv) else 1
    codes = shifted.reshape(height, width, groups, -1)[..., : node.weights.shape[1]].reshape(height, width, -1)
    codes = codes.astype(np.float32) + node.activations.qmin
    return codes.transpose(2, 0, 1)[None] if isinstance(node, Conv) else codes[0]


class _Team:
    """Threads that share the work on one image (see csrc/team.h): the caller's and some that wait for it."""

    def __init__(self, threads: int) -> None:
        self.threads, self.others = threads, ThreadPoolExecutor(threads - 1)
        self.meeting = (ctypes.c_int * 16)()

    def run(self, kernel: int, ops) -> None:
        """Run a plan; each thread does its part of every step."""
        address = ctypes.addressof(self.meeting)

        def work(place: int) -> None:
            library().asq_run_together(kernel, ops, len(ops), place, self.threads, address)

        try:
            started = [self.others.submit(work, place) for place in range(1, self.threads)]
        except RuntimeError:  # no thread could be started: those that were must not wait for it
            library().asq_abandon(ctypes.byref(self.meeting))
            raise
        work(0)
        for future in started:
            future.result()


class NativeNetwork:
    """A network on a native kernel.

    Args:
        kernel: its name.
        threads: images that run at the same time, each with a plan of its own; they share the work on a single one.
    Raises:
        NotNative: the network has a node that there is no step for.
    """

    def __init__(self, artifact: Artifact, kernel: str, threads: int) -> None:
        self.artifact, self.threads = artifact, threads
        self.place = compiled_kernels()[kernel][0]
        self.shared: dict[str, np.ndarray] = {}
        self.plans = [Plan(artifact, self.shared)]
        together = threads > 1 and artifact.plan.multiply_adds >= WORTH_A_TEAM
        self.team = _Team(threads) if together else None

    def run(self, images: np.ndarray, observe: Observer | None = None) -> np.ndarray:
        """Return the logits, (N, classes); `observe` as in `Session.run`, one call for all images."""
        if observe is not None:
            return self._run_observed(images, observe)
        count = max(1, min(self.threads, len(images)))
        while len(self.plans) < count:
            self.plans.append(Plan(self.artifact, self.shared))
        parts = np.array_split(images, count)
        if count == 1:
            return self._run_part(self.plans[0], images, self.team)
        with ThreadPoolExecutor(count) as pool:
            return np.concatenate(list(pool.map(self._run_part, self.plans, parts)))

    def _run_observed(self, images: np.ndarray, observe: Observer) -> np.ndarray:
        seen: list[list[tuple]] = []  # of each image: (layer, codes, accumulators)
        logits = []
        for image in images:
            seen.append([])
            logits.append(self.plans[0].run_observed(self.place, image, lambda *layer: seen[-1].append(layer)))
        for layer in zip(*seen, strict=True):
            observe(layer[0][0], *(np.concatenate([image[part] for image in layer]) for part in (1, 2)))
        return np.stack(logits)

    def _run_part(self, plan: Plan, images: np.ndarray, team: _Team | None = None) -> np.ndarray:
        logits = np.empty((len(images), len(plan.output)), np.float32)
        for row, image in zip(logits, images, strict=True):
            row[:] = plan.run(self.place, image, team)
        return logits


def pack(levels: np.ndarray, groups: int) -> np.ndarray:
    """Return [group][block][row][column][channels / DEPTH][BLOCK outputs][DEPTH channels], int8, zeros in the gaps.

    Args:
        levels: (C_out, C_in / groups, height, width), int8.
    """
    outputs, channels, height, width = levels.shape
    per_group = outputs // groups
    padded = np.zeros((groups, _padded(per_group, BLOCK), _padded(channels, DEPTH), height, width), np.int8)
    padded[:, :per_group, :channels] = levels.reshape(groups, per_group, channels, height, width)
    blocks = padded.reshape(groups, -1, BLOCK, padded.shape[2] // DEPTH, DEPTH, height, width)
    return blocks.transpose(0, 1, 5, 6, 3, 2, 4)


def _pack_depthwise(levels: np.ndarray) -> np.ndarray:
    """Return [block][row][column][BLOCK], int32, zeros in the gaps; `levels`: (outputs, 1, height, width)."""
    outputs, _, height, width = levels.shape
    padded = np.zeros((_padded(outputs, BLOCK), height, width), np.int32)
    padded[:outputs] = levels[:, 0]
    return padded.reshape(-1, BLOCK, height, width).transpose(0, 2, 3, 1)


def _by_group(values: np.ndarray, groups: int) -> np.ndarray:
    """Return one number for each output, those of each group padded to BLOCK with zeros; groups 0: as one."""
    rows = values.reshape(max(1, groups), -1)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK)))


def _padded(n: int, to: int) -> int:
    return -(-n // to) * to
