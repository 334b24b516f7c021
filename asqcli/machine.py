"""What this process may use of the machine, and how it uses its memory; no torch, for the engine asks too."""

from __future__ import annotations

import ctypes
import os
import platform

# Parameters of glibc's `mallopt`, from its malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = -1  # as a threshold


def usable_processors() -> int:
    """Return how many processors this process may run on: fewer than there are in many a container or batch system."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Let the process keep what tensors free for the tensors that come next, where the C library is glibc.

    By itself it takes every tensor of more than 32 MiB from the system and gives it back, page by page and zeroed each
    time. Training steps free and take hundreds of them: at 224 pixels that was two fifths of a step. Nothing that is
    computed changes; the process holds on to the most memory that it ever needed.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
