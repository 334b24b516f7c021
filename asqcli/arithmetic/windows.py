"""Windows of pools along one side of an image."""

from __future__ import annotations

Windows = list[tuple[int, int]]  # (first, end) of each


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
