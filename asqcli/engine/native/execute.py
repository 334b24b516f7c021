"""A plan run on images: in one call, or step by step for who looks at every layer."""

from __future__ import annotations

import ctypes
import math
from typing import Protocol

import numpy as np

from asqcli.artifact.nodes import Conv
from asqcli.engine.interface import Observer
from asqcli.engine.native.bindings import OP_CONV, EpilogueTail, Op, Pool, library
from asqcli.engine.native.planner import Plan


class Team(Protocol):
    """Threads that share the work on one image."""

    def run(self, kernel: int, ops: ctypes.Array[Op]) -> None: ...


def run(plan: Plan, kernel: int, images: np.ndarray, team: Team | None = None) -> np.ndarray:
    """Return the logits, (N, classes); `images`: (N, 3, H, W) float32; a team shares the work on each."""
    images = _as_read(plan, images)
    logits = np.empty((len(images), len(plan.output)), np.float32)
    if team is None:
        library().asq_run_images(
            kernel, plan.ops, len(plan.ops), images.ctypes.data, len(images), plan.input.size,
            plan.reader and ctypes.byref(plan.reader), plan.input.ctypes.data, plan.output.ctypes.data,
            len(plan.output), logits.ctypes.data,
        )  # fmt: skip
        return logits
    for image, row in zip(images, logits, strict=True):
        _take(plan, image)
        team.run(kernel, plan.ops)
        _forget(plan)
        row[:] = plan.output
    return logits


def run_observed(plan: Plan, kernel: int, image: np.ndarray, observe: Observer) -> np.ndarray:
    """As `run`, step by step; tell `observe` of each layer's codes and accumulators."""
    image = _as_read(plan, image[None])
    _take(plan, image)
    layers = iter(zip(plan.layers, plan.codes, strict=True))
    for op in plan.ops:
        # Before the step itself, which leaves behind what those after it read.
        accumulators = _accumulators(kernel, op) if op.kind == OP_CONV else None
        library().asq_run(kernel, ctypes.byref(op), 1)
        if accumulators is not None:
            (node, layout), codes = next(layers)
            seen = layout.codes(codes).astype(np.float32) + op.conv.qmin, accumulators
            conv = isinstance(node, Conv)
            observe(node.name, *(part.transpose(2, 0, 1)[None] if conv else part[0] for part in seen))
    _forget(plan)
    return plan.output.copy()


def _as_read(plan: Plan, images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images if plan.planar else images.transpose(0, 2, 3, 1))


def _take(plan: Plan, image: np.ndarray) -> None:
    """Let a plan read an image, which must live until it has run."""
    if plan.reader is None:
        plan.input[:] = image.reshape(-1)
    else:
        plan.reader.x = image.ctypes.data


def _forget(plan: Plan) -> None:
    """Let a plan forget the image, which is the caller's."""
    if plan.reader is not None:
        plan.reader.x = plan.input.ctypes.data


def _accumulators(kernel: int, op: Op) -> np.ndarray:
    """Run a convolution without its epilogue; return (height, width, outputs)."""
    out = np.empty((op.out_h, op.out_w, op.outputs), np.float32)
    raw = Op.from_buffer_copy(op)
    raw.out, raw.row_sums = out.ctypes.data, None
    raw.conv.raw, raw.conv.bias, raw.conv.pool = True, None, Pool()
    raw.conv.tail = EpilogueTail(low=-math.inf, high=math.inf)
    library().asq_run(kernel, ctypes.byref(raw), 1)
    return out
