"""Augmentation of whole batches held as uint8 tensors. All randomness comes from the generator given.

A part of a batch is augmented as it is in the whole one: numbers are drawn for all images.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ALL = slice(None)


def shift(
    images: Tensor, padding: int, generator: torch.Generator, *, of: int | None = None, own: slice = ALL
) -> Tensor:
    """Return each image cropped at a random place after `padding` pixels of black were put around it.

    Args:
        images: (N, C, H, W), those of a batch of `of` images that lie in `own`; the whole batch without them.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    tops, lefts = torch.randint(0, 2 * padding + 1, (2, of or count, 1), generator=generator)[:, own]
    rows = tops + torch.arange(height)  # (N, H)
    columns = lefts + torch.arange(width)  # (N, W)
    samples = torch.arange(count)[:, None, None]
    # Indexing around the channel dimension puts it last: (N, H, W, C).
    return padded[samples, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def flip(images: Tensor, generator: torch.Generator, *, of: int | None = None, own: slice = ALL) -> Tensor:
    """Return the images, each mirrored left to right with probability one half; arguments as of `shift`."""
    mirrored = torch.rand(of or images.shape[0], generator=generator)[own] < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)
