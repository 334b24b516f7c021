"""SIGINT and SIGTERM: stop after the step at hand, save, and end with the signal's exit code."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from asqcli.errors import Interruption

if TYPE_CHECKING:
    from asqcli.processes.alone import Processes


class StopSignals:
    """Turns the first signal into a request that training polls, and the second into an immediate end.

    Of several processes any may get it, and all stop after the same step. To them a second signal says nothing new:
    batch systems send one to every process, the launcher passes its own on, and Linux sends one for each of its threads
    when it is killed.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.received: int | None = None
        self.polled = False

    def __enter__(self) -> StopSignals:
        self.before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        if self.processes.size > 1:  # which go on to their end, whatever comes late
            self.polled = True
            return
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def poll(self) -> None:
        """Raise StopRequested when a signal has come, to any of the processes."""
        from asqcli.run.context import StopRequested

        self.polled = True
        if (number := self.processes.agree_to_stop(self.received)) is not None:
            raise StopRequested(number)

    def _handle(self, number: int, _frame: object) -> None:
        if not self.polled:
            raise Interruption(number, "stopped before training began")
        if self.received is not None and self.processes.size == 1:
            raise Interruption(number, "stopped at once, at the second signal", "the last checkpoint is usable")
        self.received = number
