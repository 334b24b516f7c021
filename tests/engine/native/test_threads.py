"""Threads that share the work on one image."""

from __future__ import annotations

import ctypes
import threading

import pytest

from asqcli.engine.native import threads
from asqcli.engine.native.bindings import Op, compiled_kernels, library

pytestmark = pytest.mark.native


def test_a_team_that_waits_for_a_core_is_given_up_for_a_while(monkeypatch):
    sleeps, log = iter([0, 9, 9, threads.USUAL_SLEEPS + 1, threads.USUAL_SLEEPS, 9]), []

    class Library:
        asq_team_size = staticmethod(lambda: 64)
        asq_worker_loop = asq_shutdown = staticmethod(lambda *_: None)

        def asq_run(self, kernel, ops, count):
            log.append("alone")

        def asq_run_together(self, kernel, ops, count, threads, state):
            log.append(next(sleeps))
            return log[-1]

    monkeypatch.setattr(threads, "library", Library)
    team = threads.ThreadTeam(2)
    for _ in range(14):
        team.run(0, [])
    assert log == [0, 9, "alone", 9, *["alone"] * 2, 3, *["alone"] * 4, 2, 9, "alone"]
    team.pause, sleeps = threads.MOST_ALONE, iter([9])
    team.run(0, [])
    assert team.alone == threads.MOST_ALONE


def test_it_is_counted_how_often_a_thread_slept_at_a_barrier():
    """The second thread comes once the first one sleeps."""
    compiled, nothing, counts = library(), Op(kind=-1), []
    index = next(index for index, usable in compiled_kernels().values() if usable)
    state = ctypes.create_string_buffer(compiled.asq_team_size())
    at = ctypes.addressof(state)
    first = threading.Thread(target=lambda: counts.append(compiled.asq_run_together(index, nothing, 1, 2, at)))
    first.start()
    asleep = ctypes.c_int.from_buffer(state, 4)  # barrier.sleepers
    while not asleep.value:
        pass
    second = threading.Thread(target=lambda: compiled.asq_worker_loop(1, at))
    second.start()
    first.join()
    compiled.asq_shutdown(at)
    second.join()
    assert counts[0] >= 1
