"""Threads that run a plan together on one image."""

from __future__ import annotations

import ctypes
import weakref
from contextlib import suppress
from threading import Thread

from asqcli.engine.native.bindings import Op, library

USUAL_SLEEPS = 2  # sleeps of a team in an image: the first barrier waits for threads that have slept
MOST_ALONE = 256  # images


class ThreadTeam:
    """Threads that share the work on one image (see csrc/barrier.h): the caller's and some that wait in C for the next.

    Args:
        threads: the caller's included; fewer where no more can be started.
    """

    def __init__(self, threads: int) -> None:
        state = ctypes.create_string_buffer(library().asq_team_size())
        self.threads, self.state = 1, state
        self.alone = self.pause = 0  # images that the caller is still to run alone, and how many they were at first

        def work(index: int) -> None:  # holds `state` until the thread ends
            library().asq_worker_loop(index, ctypes.addressof(state))

        with suppress(RuntimeError):  # can't start new thread
            for index in range(1, threads):
                Thread(target=work, args=(index,), daemon=True).start()
                self.threads += 1
        weakref.finalize(self, lambda: library().asq_shutdown(ctypes.addressof(state)))

    def run(self, kernel: int, ops: ctypes.Array[Op]) -> None:
        """Run a plan; each thread does its part of every step.

        Where other work takes a core, the threads wait for each other at every step, and all together are slower than
        one. After such a run the caller works alone: on one image, and twice as many after each team that fails again.
        """
        if self.alone:
            self.alone -= 1
            library().asq_run(kernel, ops, len(ops))
            return
        sleeps = library().asq_run_together(kernel, ops, len(ops), self.threads, ctypes.addressof(self.state))
        self.pause = min(2 * self.pause, MOST_ALONE) or 1 if sleeps > USUAL_SLEEPS else 0
        self.alone = self.pause
