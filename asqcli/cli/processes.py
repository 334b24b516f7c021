"""`--nproc`, and torchrun around the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, redirect_stdout

from asqcli.cli.streams import results
from asqcli.errors import UsageError
from asqcli.machine import usable_processors
from asqcli.processes.alone import ALONE, Processes
from asqcli.processes.failures import launched, launched_by_asq


def processes_of_command(nproc: int | None) -> int:
    """Return how many processes the command is run by, here and on other machines.

    Raises:
        UsageError: torchrun has started them already.
    """
    if not launched():
        return nproc or 1
    if nproc is not None and not launched_by_asq():
        raise UsageError(
            "`--nproc` makes no sense in a process that torchrun started (it sets RANK and WORLD_SIZE)",
            "say `--nproc-per-node` to torchrun",
        )
    return int(os.environ["WORLD_SIZE"])


def run_all(count: int, threads: int | None) -> int:
    """Run this command line in so many processes; return the exit code of all together.

    Args:
        threads: of each, None to divide the processors among them.
    """
    from asqcli.cli.console import note
    from asqcli.processes.launch import run_processes

    wanted, usable = count * (threads or 1), usable_processors()
    if wanted > usable:
        of = "" if threads in (None, 1) else f" of {threads} threads"
        note(f"note: {count} processes{of} for {usable} processor{'s' * (usable > 1)}")
    return run_processes(sys.argv[1:], count, stdout=results().fileno())


@contextmanager
def joined_processes(device: str | None) -> Generator[Processes]:
    """Give the processes that run this command together, once all of them are there; or this one alone."""
    if not launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each tells of its connections
    from asqcli.processes.group import joined

    with joined(on_cuda=device != "cpu") as processes, nullcontext() if processes.first else _without_prints():
        yield processes


@contextmanager
def _without_prints() -> Generator[None]:
    """Let vanish what Python code prints inside; the first process prints the same."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield
