"""Cells at work: a process of `asq quantize` for each, some at once; signals to this one go on to them."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from asqcli.errors import ExitCode
from asqcli.files import machine_errors

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Job(NamedTuple):
    """One process.

    Attributes:
        name: of its cell.
        arguments: of `asq`.
        log: the file that its progress is added to.
    """

    name: str
    arguments: list[str]
    log: Path


class End(NamedTuple):
    """How a process ended: its exit code, negative where a signal killed it, and the reason in words where it failed.

    A process that did as a signal to all told it has `stopped`.
    """

    code: int
    reason: str | None
    stopped: bool


class CellProcesses:
    """Runs jobs, so many at once. The first signal asks those at work to stop, the second kills them.

    Args:
        inherited: a file descriptor that they keep open.
    """

    def __init__(self, count: int, inherited: int) -> None:
        self.count, self.inherited = count, inherited
        self.received: int | None = None
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ended: queue.SimpleQueue[tuple[Job, bytes]] = queue.SimpleQueue()  # and what they printed

    def __enter__(self) -> CellProcesses:
        self.before = {number: signal.signal(number, self._pass_on) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._send(signal.SIGTERM)  # there are some only where an error broke this off
        for process in self.running.values():
            process.wait()
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def run(self, jobs: Iterable[Job], *, started: Callable[[Job], None], ended: Callable[[Job, End], None]) -> None:
        """Run the jobs in their order, until all have ended or a signal has come and those at work have ended."""
        waiting = iter(jobs)
        while True:
            while len(self.running) < self.count and self.received is None and (job := next(waiting, None)) is not None:
                self._start(job)
                started(job)
            if not self.running:
                return
            job, output = self.ended.get()
            code = self.running.pop(job.name).wait()
            ended(job, End(code, reason_of(code, output) if code else None, self._as_told(code)))

    def _start(self, job: Job) -> None:
        with machine_errors(job.log), job.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "asqcli", *job.arguments, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # signals of a terminal come through this process, once
                pass_fds=(self.inherited,),
            )
        self.running[job.name] = process
        threading.Thread(target=lambda: self.ended.put((job, process.communicate()[0])), daemon=True).start()
        if self.received is not None:  # while it was being started
            process.send_signal(self.received)

    def _as_told(self, code: int) -> bool:
        """Did a process end as a signal to all told it?"""
        stopped = (ExitCode.INTERRUPTED, ExitCode.TERMINATED, *(-number for number in (*SIGNALS, signal.SIGKILL)))
        return self.received is not None and code in stopped

    def _pass_on(self, number: int, _frame: Any) -> None:
        again, self.received = self.received is not None, number
        self._send(signal.SIGKILL if again else number)

    def _send(self, number: int) -> None:
        for process in list(self.running.values()):
            if process.poll() is None:
                process.send_signal(number)


def reason_of(code: int, output: bytes) -> str:
    """Return why a process failed, in one line.

    Args:
        output: its JSON document, where it got that far.

    >>> reason_of(5, b'{"error": {"message": "the loss became inf"}}'), reason_of(-9, b"")
    ('diverged: the loss became inf', 'ended by SIGKILL, perhaps for lack of memory')
    """
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", perhaps for lack of memory" if -code == signal.SIGKILL else "")
    try:
        message = " ".join(json.loads(output)["error"]["message"].split())
    except (ValueError, LookupError, TypeError, AttributeError):  # it printed something else, or nothing
        return f"exit code {code}"
    return f"diverged: {message}" if code == ExitCode.DIVERGED else message
