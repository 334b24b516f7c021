"""Where a native network's time goes: its steps one by one, beside what the processor can multiply and add at most."""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from typing import Any

import numpy as np

from asqcli.engine.native import bindings as abi
from asqcli.engine.native.bindings import Op, library
from asqcli.engine.native.execute import run
from asqcli.engine.native.network import NativeNetwork

ROUNDS = 40
PEAK_ROUNDS, PEAK_REPEATS = 2_000_000, 7
KINDS = {
    abi.OP_CONV: "conv",
    abi.OP_ELEMENTWISE: "elementwise",
    abi.OP_MULTIPLY: "product",
    abi.OP_GATE: "gate",
    abi.OP_MAX_POOL: "max pool",
    abi.OP_AVG_POOL: "average pool",
    abi.OP_ROW_SUMS: "row sums",
    abi.OP_MEAN: "mean",
    abi.OP_COPY: "copy",
}
FORMS = {0: "", 1: ", F(2, 3)", 2: ", F(2x2, 3x3)"}


def measure_steps(network: NativeNetwork) -> dict[str, Any]:
    """Return the time of each kind of step on one thread, on one random image.

    Returns:
        peak_gmacs: billions of multiply-adds a second in the kernel's own instruction, measured, or None.
        steps: from the longest together to the shortest, each with its name, how many there are, the time of one and of
            all in microseconds, multiply-adds a second in billions (as in the direct form) and their part of the peak.
    """
    ops, seconds = network.plans[0].ops, _step_seconds(network)
    peak = _peak(network.kernel_index)
    return {"peak_gmacs": peak and round(peak, 1), "steps": _by_name(ops, seconds, peak)}


def layer_microseconds(network: NativeNetwork) -> dict[str, float]:
    """Return the time of each convolution and linear layer by its name, with all that is fused with it.

    On one thread, on one random image; a layer that is called twice has the time of both calls.
    """
    plan, times = network.plans[0], dict[str, float]()
    convs = [median for op, median in zip(plan.ops, map(statistics.median, _step_seconds(network)), strict=True)
             if op.kind == abi.OP_CONV]  # fmt: skip
    for (node, _), seconds in zip(plan.layers, convs, strict=True):
        times[node.name] = times.get(node.name, 0.0) + round(1e6 * seconds, 2)
    return times


def _step_seconds(network: NativeNetwork) -> list[list[float]]:
    """Return the times of each step, in the order of the steps."""
    plan = network.plans[0]
    run(plan, network.kernel_index, _random_image(network))
    addresses = [ctypes.byref(op) for op in plan.ops]
    seconds: list[list[float]] = [[] for _ in plan.ops]
    run_step, clock = library().asq_run, time.perf_counter
    for _ in range(ROUNDS):  # in their order, so that each finds the memory as it is in a run
        for times, address in zip(seconds, addresses, strict=True):
            begin = clock()
            run_step(network.kernel_index, address, 1)
            times.append(clock() - begin)
    return seconds


def _random_image(network: NativeNetwork) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, *network.artifact.graph.shapes[0]), dtype=np.float32)


def _peak(kernel: int) -> float | None:
    """Return the most multiply-adds a second, in billions, of a few runs; None: this kernel has no such instruction."""
    rates = []
    for _ in range(PEAK_REPEATS):
        begin = time.perf_counter()
        products = library().asq_peak_loop(kernel, PEAK_ROUNDS)
        rates.append(products / (time.perf_counter() - begin) / 1e9)
    return max(rates) or None


def _by_name(ops: ctypes.Array[Op], seconds: list[list[float]], peak: float | None) -> list[dict[str, Any]]:
    names = [_name(op) for op in ops]
    steps = []
    for name in dict.fromkeys(names):
        indices = [k for k, other in enumerate(names) if other == name]
        all_of_them = sum(statistics.median(seconds[k]) for k in indices)
        products = _multiply_adds(ops[indices[0]])
        rate = products * len(indices) / all_of_them / 1e9
        steps.append({
            "step": name,
            "count": len(indices),
            "microseconds": round(1e6 * all_of_them / len(indices), 2),
            "all_microseconds": round(1e6 * all_of_them, 1),
            "gmacs": round(rate, 1) if products else None,
            "of_peak": round(rate / peak, 3) if products and peak else None,
        })  # fmt: skip
    return sorted(steps, key=lambda step: -step["all_microseconds"])


def _name(op: Op) -> str:
    """Return a step's name: `conv 3x3 64x56x56 to 64`, and what is special about it."""
    name = f"{KINDS[op.kind]} {op.channels}x{op.height}x{op.width}"
    if op.kind != abi.OP_CONV:
        return name
    if (op.height, op.width) == (1, 1):
        return f"linear {op.channels} to {op.outputs}"
    conv = op.conv
    kind = "depthwise" if conv.layout == abi.LAYOUT_ROW_QUADS else "conv"
    stride = "" if (conv.stride_h, conv.stride_w) == (1, 1) else f", stride {conv.stride_h}"
    groups = f", {conv.groups} groups" if conv.groups > 1 and kind == "conv" else ""
    pool = ", max pool" if conv.pool.out_h else ""
    image = f"{op.channels}x{op.height}x{op.width}"
    return f"{kind} {conv.kernel_h}x{conv.kernel_w} {image} to {op.outputs}{stride}{groups}{FORMS[conv.winograd]}{pool}"


def _multiply_adds(op: Op) -> int:
    if op.kind != abi.OP_CONV:
        return 0
    window = op.conv.kernel_h * op.conv.kernel_w * (op.channels // op.conv.groups)
    return math.prod((op.out_h, op.out_w, op.outputs, window))
