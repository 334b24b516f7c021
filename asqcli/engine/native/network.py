"""A network on a native kernel: plans run in C, on several images at a time or by several threads on one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from asqcli.artifact import Artifact
from asqcli.engine.interface import Observer
from asqcli.engine.native.bindings import compiled_kernels, library
from asqcli.engine.native.execute import run, run_observed
from asqcli.engine.native.memory import LARGEST_PLAN
from asqcli.engine.native.planner import Plan
from asqcli.engine.native.threads import ThreadTeam

WORTH_A_TEAM = 10**7  # multiply-adds of an image; below, threads would wait for each other longer than they work


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
        self.kernel_index = compiled_kernels()[kernel][0]
        self.shared: dict[str, np.ndarray] = {}
        self.winograd = bool(library().asq_kernel_winograd(self.kernel_index))
        self.recompute = bool(library().asq_kernel_recompute(self.kernel_index))
        self.plans = [self._new_plan()]
        together = threads > 1 and artifact.graph.multiply_adds >= WORTH_A_TEAM
        self.pool: ThreadPoolExecutor | None = None
        self.team = ThreadTeam(threads) if together else None

    def _new_plan(self) -> Plan:
        return Plan(self.artifact, self.shared, winograd=self.winograd, recompute=self.recompute, threads=self.threads)

    def run(self, images: np.ndarray, observe: Observer | None = None) -> np.ndarray:
        """Return the logits, (N, classes); `observe` as in `Session.run`, one call for all images."""
        if observe is not None:
            return self._run_observed(images, observe)
        side_by_side = LARGEST_PLAN // max(1, self.plans[0].memory.bytes)  # plans together take no more than one may
        count = max(1, min(self.threads, len(images), side_by_side))
        if count == 1:
            return run(self.plans[0], self.kernel_index, images, self.team)
        while len(self.plans) < count:
            self.plans.append(self._new_plan())
        if self.pool is None:
            self.pool = ThreadPoolExecutor(self.threads - 1)
        first, *others = np.array_split(images, count)
        futures = [
            self.pool.submit(run, plan, self.kernel_index, part)
            for plan, part in zip(self.plans[1:], others, strict=False)
        ]
        return np.concatenate([run(self.plans[0], self.kernel_index, first), *(future.result() for future in futures)])

    def _run_observed(self, images: np.ndarray, observe: Observer) -> np.ndarray:
        seen: list[list[tuple[Any, ...]]] = []  # each image's (layer, codes, accumulators)
        logits = []
        for image in images:
            seen.append([])
            logits.append(run_observed(self.plans[0], self.kernel_index, image, lambda *layer: seen[-1].append(layer)))
        for layer in zip(*seen, strict=True):
            observe(layer[0][0], *(np.concatenate([image[part] for image in layer]) for part in (1, 2)))
        return np.stack(logits)
