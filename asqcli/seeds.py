"""Randomness as a function of whole numbers: (seed, phase, epoch, step) name a stream, whatever ran before it.

That is what makes a resumed run equal an uninterrupted one without saving any generator's state.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum, unique

import numpy as np
import torch


@unique
class Stream(IntEnum):
    """What follows a run's seed in the name of a stream. Old runs are resumed: numbers stay as they are."""

    WARMUP = 0
    FLOAT = 1
    QAT = 2
    FINETUNE = 3
    INIT = 100
    CALIBRATION = 101
    BATCH_NORM = 102


def stream_seed(*numbers: int) -> int:
    """Return a seed of 63 bits that is a fixed function of `numbers`."""
    digest = hashlib.blake2b(repr(tuple(int(n) for n in numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*numbers: int) -> torch.Generator:
    """Return a CPU generator seeded with `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(*numbers))


def seed_everything(*numbers: int) -> None:
    """Seed the generators that code of others draws from: torch's on every device, NumPy's and Python's global ones."""
    seed = stream_seed(*numbers)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def generator_states() -> tuple[object, ...]:
    """Return where those generators stand on the CPU, in a form that can be compared."""
    numpy = np.random.get_state(legacy=False)
    place = numpy["state"]["key"].tobytes(), numpy["state"]["pos"], numpy["has_gauss"], numpy["gauss"]
    return torch.get_rng_state().numpy().tobytes(), place, random.getstate()


@contextmanager
def held_generators() -> Generator[None]:
    """Let those generators go on afterwards from where they stand, on the CPU."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
