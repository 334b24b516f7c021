"""What this process may use of the machine; no torch, for the engine asks too."""

from __future__ import annotations

import os


def usable_processors() -> int:
    """Return how many processors this process may run on: fewer than there are in many a container or batch system."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
