"""Codes of a few bits, packed into bytes: code after code, each with its lowest bit first, no gaps."""

from __future__ import annotations

import numpy as np


def packed_size(count: int, bits: int) -> int:
    """Return the bytes that `count` codes take.

    >>> packed_size(5, 3)
    2
    """
    return -(-count * bits // 8)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return the bytes of `codes`, (packed_size(..),) uint8.

    Args:
        codes: any shape, uint8, each below 2^bits; read in row-major order.

    >>> pack(np.array([1, 2, 3], np.uint8), 4)
    array([33,  3], dtype=uint8)
    """
    planes = np.unpackbits(codes.reshape(-1, 1), axis=1, count=bits, bitorder="little")
    return np.packbits(planes.reshape(-1), bitorder="little")


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Return the first `count` codes of `packed`, (count,) uint8.

    >>> unpack(np.array([33, 3], np.uint8), 4, 3)
    array([1, 2, 3], dtype=uint8)
    """
    groups = -(-count // 8)  # eight codes are `bits` whole bytes
    whole = np.zeros((groups, bits), np.uint8)
    used = min(packed.size, whole.size)
    whole.reshape(-1)[:used] = packed[:used]
    codes = np.empty((groups, 8), np.uint8)
    for place in range(8):
        byte, shift = divmod(place * bits, 8)
        code = whole[:, byte] >> shift
        if shift + bits > 8:
            code |= whole[:, byte + 1] << (8 - shift)
        codes[:, place] = code & (2**bits - 1)
    return codes.reshape(-1)[:count]
