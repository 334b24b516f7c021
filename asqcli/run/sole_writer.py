"""One process at a time writes a run: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from asqcli.errors import UsageError
from asqcli.files import machine_errors

HELD = {errno.EACCES, errno.EAGAIN}


@contextmanager
def sole_writer(lock: Path) -> Generator[None]:
    """Hold the file `lock` against other processes; it is there for as long as that, or as nobody cleans up.

    Where the system or the file system has no locks, nothing is held.

    Raises:
        UsageError: another process holds it.
        MachineError: it cannot be written.
    """
    with _taken(lock):
        try:
            yield
        finally:
            with suppress(OSError):  # another user's folder may let files be made, and not removed
                lock.unlink(missing_ok=True)


def is_held(lock: Path) -> bool:
    """Does another process hold the file `lock`? Where there are no locks, none does.

    Never ask of a lock that this process holds: it would be given back.
    """
    try:
        import fcntl

        with lock.open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # takes nothing from who comes to write meanwhile
    except (ImportError, FileNotFoundError):
        return False
    except OSError as error:
        return error.errno in HELD
    return False


def _taken(lock: Path) -> IO[str]:
    """Return the file, which closing gives back."""
    while True:
        with machine_errors(lock):
            file = lock.open("a", encoding="utf-8")
        if not _take(file):
            file.close()
            raise UsageError(
                f"another process is training `{lock.parent}`", "wait until it is done, or choose another `--out`"
            )
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        file.close()  # whoever held it removed it, just after it was opened here


def _take(file: IO[str]) -> bool:
    """Take a file, and tell if nobody else has it. Processes that are forked later do not have it too."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in HELD
    return True
