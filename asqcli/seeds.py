"""Randomness as a function of whole numbers: (seed, phase, epoch, step) name a stream, whatever ran before it.

That is what makes a resumed run equal an uninterrupted one without saving any generator's state.
"""

from __future__ import annotations

import hashlib

import torch


def stream_seed(*numbers: int) -> int:
    """Return a seed of 63 bits that is a fixed function of `numbers`."""
    digest = hashlib.blake2b(repr(tuple(int(n) for n in numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*numbers: int) -> torch.Generator:
    """Return a CPU generator seeded with `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(*numbers))
