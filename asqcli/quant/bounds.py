"""Bit-widths and signedness to integer bounds."""

from __future__ import annotations

from asqcli.errors import BoundsError

MIN_BITS, MAX_BITS = 2, 8


def check_bits(bits: int, *, most: int = MAX_BITS) -> int:
    """Return `bits` when it lies in 2..`most`.

    Raises:
        BoundsError: it does not.
    """
    if not MIN_BITS <= bits <= most:
        raise BoundsError(f"{bits} bits cannot be quantized to, choose {MIN_BITS} to {most}")
    return bits


def integer_bounds(bits: int, *, signed: bool) -> tuple[int, int]:
    """Return (qmin, qmax), the n and p of Eq. 1, for codes of `bits` bits, sign included.

    Raises:
        BoundsError: `bits` is not in 2..8.

    >>> integer_bounds(4, signed=False), integer_bounds(4, signed=True)
    ((0, 15), (-8, 7))
    """
    check_bits(bits)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
