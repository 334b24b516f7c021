"""`--nproc`: start several processes of the same command on this machine, watch them, end them.

They get the variables that torchrun sets, and meet in a store that this process keeps, so that what they leave in it
outlives each of them.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from asqcli.errors import Interruption, LostProcessError
from asqcli.machine import usable_processors
from asqcli.processes.failures import LAUNCHER, NOTE, noted_code

# From the end of the first process that failed: the others notice at once, unless they are reading or writing.
GRACE_S = 30
ADDRESS = "127.0.0.1"
LOOPBACK = ("lo", "lo0")  # as Linux and macOS call it
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_processes(arguments: Sequence[str], count: int, *, stdout: int) -> int:
    """Run `asq` with these arguments in several processes, and return the exit code of all together.

    Args:
        arguments: of the command line.
        stdout: the file descriptor for their results.
    Raises:
        Interruption: a signal came before they began.
        LostProcessError: all were killed.
    """
    with socket.create_server((ADDRESS, 0), backlog=count) as listening, _Started(arguments, count, stdout) as started:
        port = listening.getsockname()[1]
        started.start(port)
        # Imported only now, as that takes a second: they wait at the door meanwhile.
        from asqcli.processes.group import serve

        store = serve(ADDRESS, port, listening.detach())
        codes = started.wait()
    if not any(codes):
        return 0
    if store.check([NOTE]):
        return noted_code(store.get(NOTE).decode())
    if told := [code for code in codes if code > 0]:
        return told[0]
    if started.received is not None:
        raise Interruption(started.received, "stopped at once", "the last checkpoint is usable, if there is one")
    killed = next(n for n, code in enumerate(codes) if code < 0)
    raise LostProcessError(
        f"process {killed} of {count} was ended by {signal.Signals(-codes[killed]).name}",
        "go on with `asq quantize --resume RUN`; RUN is the run's folder, if it got that far",
    )


class _Started:
    """The processes, from their start to their end; signals to this one go on to them."""

    def __init__(self, arguments: Sequence[str], count: int, stdout: int) -> None:
        self.command = [sys.executable, "-m", "asqcli", *arguments]
        self.count, self.stdout = count, stdout
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ended: queue.SimpleQueue[int] = queue.SimpleQueue()  # exit codes, as they come
        self.received: int | None = None

    def __enter__(self) -> _Started:
        self.before = {number: signal.signal(number, self._pass_on) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._send(signal.SIGKILL)
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def start(self, port: int) -> None:
        """Start them; a thread each waits for their ends."""
        interfaces = [name for _, name in socket.if_nameindex() if name in LOOPBACK]
        shared = {
            "MASTER_ADDR": ADDRESS,
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(self.count),
            "LOCAL_WORLD_SIZE": str(self.count),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # as torchrun says that it keeps the store itself
            LAUNCHER: str(os.getpid()),
            **({"GLOO_SOCKET_IFNAME": interfaces[0]} if interfaces else {}),
        }
        threads = max(1, usable_processors() // self.count)
        for number in range(self.count):
            environment = {"OMP_NUM_THREADS": str(threads), **os.environ, **shared}
            process = subprocess.Popen(
                self.command,
                env={**environment, "RANK": str(number), "LOCAL_RANK": str(number)},
                stdin=subprocess.DEVNULL,
                stdout=self.stdout,
                start_new_session=True,  # signals of a terminal come through this process, once
            )
            self.processes.append(process)
            threading.Thread(target=lambda p=process: self.ended.put(p.wait()), daemon=True).start()

    def wait(self) -> list[int]:
        """Wait for all to end, for GRACE_S only after a failure; return their exit codes."""
        failed = False
        for _ in range(self.count):
            try:
                failed = self.ended.get(timeout=GRACE_S if failed else None) != 0 or failed
            except queue.Empty:
                self._send(signal.SIGKILL)
                break
        return [process.wait() for process in self.processes]

    def _pass_on(self, number: int, _frame: Any) -> None:
        """Pass a signal on; the second one ends all at once."""
        self._send(number if self.received is None else signal.SIGKILL)
        self.received = number

    def _send(self, number: int) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)
