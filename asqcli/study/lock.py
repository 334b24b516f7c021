"""One study at a time in a folder: a lock that the study and all cells it started hold until the last of them ends."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from asqcli.errors import MachineError
from asqcli.files import machine_errors

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Generator[int]:
    """Hold a folder's lock; give its file descriptor, which a process that inherits it holds, too.

    The operating system lets go of it when they have ended, however they end. Where it has no locks there is none.

    Raises:
        MachineError: another study works in the folder, or cells of one that was killed still do.
    """
    import fcntl

    path = folder / LOCK
    with machine_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise MachineError(
            f"another `asq study` works in `{folder}`, or cells that one left behind when it was killed",
            "wait for their end, or end them",
        ) from error
    except OSError:
        pass  # a file system without locks
    try:
        yield descriptor
    finally:
        os.close(descriptor)
