"""A session and its peers on one random batch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from asqcli.bench import machine
from asqcli.bench.peers import INT8, PACKAGES, PEERS, Float, NoPeer, Run, build_peers, float_network
from asqcli.bench.steps import measure_steps
from asqcli.bench.timing import Timing, alternate
from asqcli.engine import Session
from asqcli.engine.native.network import NativeNetwork

SECONDS = 15.0
UNDISTURBED_CORES = 0.9  # no engine sleeps in a run: fewer busy cores than one means that others had it
ASQ = "asq"


def measure_speed(
    session: Session,
    *,
    batch: int = 1,
    factory: str | None = None,
    seconds: float = SECONDS,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return how fast the engine is beside its peers, as the `bench` of `asq infer`.

    Args:
        session: what is measured, with as many threads as its peers get.
        batch: images in one run.
        factory: the user's own name of the float network, or None for the one that the file tells.
        seconds: for the rounds together, about.
        tell: called with what is being done.
    """
    load = machine.load_average()
    document = session.artifact.document
    inputs = np.random.default_rng(0).standard_normal((batch, *session.input_shape), dtype=np.float32)
    with tempfile.TemporaryDirectory(prefix="asq-bench-") as folder:
        peers, missing = _peers(session, inputs, factory, Path(folder), tell)
        tell(f"measuring {', '.join((ASQ, *peers))} in turn")
        timings, rounds = alternate({ASQ: lambda: session.run(inputs), **peers}, seconds=seconds)
    return {
        "model": document.provenance.model,
        "input_size": document.input.image_size,
        "multiply_adds": session.artifact.graph.multiply_adds,
        "kernel": session.kernel,
        "threads": session.threads,
        "batch": batch,
        **_figures(timings),
        "rounds": rounds,
        "missing": missing,
        **(measure_steps(session.network) if isinstance(session.network, NativeNetwork) else {}),
        "processor": machine.processor(),
        "load_average": load,
        "versions": machine.versions(PACKAGES),
    }


def _peers(
    session: Session, inputs: np.ndarray, factory: str | None, folder: Path, tell: Callable[[str], None]
) -> tuple[dict[str, Run], dict[str, str]]:
    document = session.artifact.document
    try:
        model = float_network(
            document.provenance.model,
            factory,
            classes=len(document.classes),
            image_size=document.input.image_size,
            multiply_adds=session.artifact.graph.multiply_adds,
        )
    except NoPeer as reason:
        return {}, dict.fromkeys(PEERS, str(reason))
    return build_peers(Float(model, inputs, session.threads, folder), PEERS, lambda name: tell(f"preparing {name}"))


def _figures(timings: dict[str, Timing]) -> dict[str, Any]:
    """Return what the timings say; a ratio is our time over the peer's, below 1 where we are faster."""
    medians = {name: timing.median_ms for name, timing in timings.items()}
    ours = medians.pop(ASQ)
    int8 = [medians[name] for name in INT8 if name in medians]
    return {
        "median_ms": round(ours, 4),
        "peers": {name: round(median, 4) for name, median in medians.items()},
        "ratios": {name: round(ours / median, 3) for name, median in medians.items()},
        "ratio_to_best_int8": round(ours / min(int8), 3) if int8 else None,
        "spread": {name: [round(t.lower_ms, 4), round(t.upper_ms, 4)] for name, t in timings.items()},
        "cores_busy": {name: round(t.cores, 2) for name, t in timings.items()},
        "disturbed": min(t.cores for t in timings.values()) < UNDISTURBED_CORES,
        "runs": {name: t.runs for name, t in timings.items()},
    }
