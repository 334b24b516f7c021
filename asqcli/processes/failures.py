"""Which of several processes tells of a failure. No torch: the command line asks before there is any.

The first that fails notes its exit code in the store that all of them reach, and tells. The others find theirs broken
off by that, see the note, and end with the same code without a word. Where nobody left a note, a process was killed.
"""

from __future__ import annotations

import os
from typing import Any

NOTE = "failure"
LAUNCHER = "ASQ_LAUNCHER"  # the variable that names the process which started this one by `--nproc`

_store: Any = None  # torch's, while this process is one of several


def launched() -> bool:
    """Was this process started to join others, by torchrun or by `--nproc`? They may be none."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def launched_by_asq() -> bool:
    """Was it `--nproc` that started this process?"""
    return launched() and LAUNCHER in os.environ


def rank() -> int:
    """Return the number of this process among them, 0 where it is alone."""
    return int(os.environ["RANK"]) if launched() else 0


def restarts() -> int:
    """Return how often torchrun has started the processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) if launched() else 0


def tell_through(store: Any) -> None:
    """Let the processes agree by a store on who tells."""
    global _store
    _store = store


def told_elsewhere(code: int) -> int | None:
    """Return the exit code of a failure that another process has told of; None where this one is to tell of its own.

    Args:
        code: of its own failure.
    """
    if _store is None:  # before they have met they do the same, and so fail the same way
        return code if rank() else None
    own = f"{rank()} {code}"
    try:
        note = _store.compare_set(NOTE, "", own).decode()
    except Exception:  # whoever kept the store is gone: the launcher, or else the first process
        return code if launched_by_asq() and rank() else None
    return None if note == own else noted_code(note)


def noted_code(note: str) -> int:
    """Return the exit code in a note."""
    return int(note.split()[1])
