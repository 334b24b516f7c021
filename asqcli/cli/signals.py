"""SIGINT and SIGTERM: stop after the step at hand, save, and end with the signal's exit code."""

from __future__ import annotations

import signal

from asqcli.errors import Interruption


class StopSignals:
    """Turns the first signal into a request that training polls, and the second into an immediate end."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.polled = False

    def __enter__(self) -> StopSignals:
        self.before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def poll(self) -> None:
        """Raise StopRequested when a signal has come."""
        from asqcli.run.context import StopRequested

        self.polled = True
        if self.received is not None:
            raise StopRequested(self.received)

    def _handle(self, number: int, _frame: object) -> None:
        if not self.polled:
            raise Interruption(number, "stopped before training began")
        if self.received is not None:
            raise Interruption(number, "stopped at once, at the second signal", "the last checkpoint is usable")
        self.received = number
