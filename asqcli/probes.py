"""Fixed images on which two forms of one network are compared: run and restored run, network and exported file.

Whole numbers alone make them, so that they are the same everywhere: slanted waves of several lengths, as coarse and
fine as photographs are, with noise on top, dark and bright ones among them.
"""

from __future__ import annotations

import numpy as np

from asqcli import images

COUNT = 4
_PRIMES = (73, 151, 211, 283)


def probe_pixels(size: int, count: int = COUNT) -> np.ndarray:
    """Return `count` images, (count, size, size, 3) uint8; a longer list begins as a shorter one."""
    number, row, column, channel = np.meshgrid(
        np.arange(count), np.arange(size), np.arange(size), np.arange(3), indexing="ij", sparse=True
    )
    value = 0
    for order, prime in enumerate(_PRIMES, start=1):
        across, down = (prime * (number + 1)) % 29 - 14, (prime * (number + channel + 2)) % 23 - 11
        value = value + _triangle((row * down + column * across) * 4**order // 8 + prime * channel, 64)
    noise = (row * 7919 + column * 104729 + channel * 1299709 + number * 15485863) % 1009 % 61
    brightness = 48 * (number % 3) - 48
    return np.clip(value + noise - 30 + brightness, 0, 255).astype(np.uint8)


def probe_inputs(size: int, mean: tuple[float, ...], std: tuple[float, ...], count: int = COUNT) -> np.ndarray:
    """Return them as a network's input, (count, 3, size, size) float32, contiguous."""
    return np.ascontiguousarray(images.normalize(probe_pixels(size, count), mean, std))


def _triangle(phase: np.ndarray, height: int) -> np.ndarray:
    """Return a wave of whole numbers from 0 to `height` with the period 2 * height."""
    return abs(phase % (2 * height) - height)
