"""Windows of pools along one side of an image."""

from __future__ import annotations

from collections.abc import Sequence

Windows = list[tuple[int, int]]  # (first, end) of each
Pair = tuple[int, int]  # down, across


def adaptive_windows(pixels: int, windows: int) -> Windows:
    """Return the windows of an adaptive pool.

    Window i of o along n pixels goes from floor(i * n / o) to ceil((i + 1) * n / o).

    >>> adaptive_windows(7, 2)
    [(0, 4), (3, 7)]
    """
    return [(i * pixels // windows, -(-(i + 1) * pixels // windows)) for i in range(windows)]


def sliding_windows(pixels: int, length: int, stride: int, border: int) -> Windows:
    """Return the windows of a pool, as far as they lie inside the image.

    >>> sliding_windows(5, 3, 2, 1)
    [(0, 2), (1, 4), (3, 5)]
    """
    starts = range(-border, pixels + border - length + 1, stride)
    return [(min(max(start, 0), pixels), min(max(start + length, 0), pixels)) for start in starts]


def reaches_beyond(sides: Sequence[int], kernel_size: Pair, stride: Pair, border: Pair) -> bool:
    """Does torch's `ceil_mode` make a window that begins inside and ends beyond the border?

    >>> reaches_beyond((8, 8), (2, 2), (2, 2), (0, 0)), reaches_beyond((8, 9), (2, 2), (2, 2), (0, 0))
    (False, True)
    """
    return any(
        (rest := (n + 2 * b - k) % s) and n + 2 * b - rest + s - k < n + b
        for n, k, s, b in zip(sides, kernel_size, stride, border, strict=True)
    )
