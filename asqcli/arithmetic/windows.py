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


def pieces_with_ceil(
    pixels: int, length: int, stride: int, border: int, *, border_counts: bool
) -> list[tuple[int, int, int, int]] | None:
    """Return how a side's windows, of which by `ceil_mode` the last reaches beyond the border, are made without it.

    Torch cuts that window off there. So it is the one window of a smaller pool, on what it sees.

    Args:
        border_counts: are the zeros of the border numbers like others? Then pieces count from the border's first on.
    Returns:
        (first, end, length, border) of each piece of the side, whose windows are put one behind the other; None where
        no whole window fits, or the last begins before the image.

    >>> pieces_with_ceil(8, 3, 2, 0, border_counts=True), pieces_with_ceil(8, 2, 2, 0, border_counts=True)
    ([(0, 8, 3, 0), (6, 8, 2, 0)], [(0, 8, 2, 0)])
    >>> pieces_with_ceil(6, 4, 3, 1, border_counts=False), pieces_with_ceil(6, 4, 3, 1, border_counts=True)
    ([(0, 6, 4, 1), (5, 6, 1, 0)], [(0, 8, 4, 0), (6, 8, 2, 0)])
    """
    rest = pixels + 2 * border - length
    if rest < 0:
        return None
    start = (rest // stride + 1) * stride - border
    before = border if border_counts else 0
    whole = (0, pixels + 2 * before, length, border - before)
    if rest % stride == 0 or start >= pixels:
        return [whole]
    if start + before < 0:
        return None
    last = start + before, pixels + 2 * before, pixels + before - start, 0
    return [whole, last]
