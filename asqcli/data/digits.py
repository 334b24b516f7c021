"""The embedded data set: 1,797 handwritten digits of 8x8 pixels from scikit-learn, real and offline."""

from __future__ import annotations

import numpy as np

TEST_SHARE = 0.2
SPLIT_SEED = 0  # fixed: the test images are the same for every run
CLASSES = tuple(str(digit) for digit in range(10))


def load_digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return ((train images, labels), (test images, labels)); images (N, 8, 8, 3) uint8, 1,437 and 360 of them."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    images, labels = load(return_X_y=True)
    pixels = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8).repeat(3, axis=3)
    parts = train_test_split(pixels, labels, test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=labels)
    train_x, test_x, train_y, test_y = map(np.asarray, parts)
    return (train_x, train_y), (test_x, test_y)
