"""Augmentation of whole batches, held as uint8 tensors, or of one image. Randomness comes from the generator given.

A part of a batch is augmented as it is in the whole one: numbers are drawn for all images.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

ALL = slice(None)
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random part: share of the image, width by height
TRIES = 10  # at a part that fits


def shift(
    images: Tensor, padding: int, generator: torch.Generator, *, of: int | None = None, own: slice = ALL
) -> Tensor:
    """Return each image cropped at a random place after `padding` pixels of black were put around it.

    Args:
        images: (N, C, H, W), those of a batch of `of` images that lie in `own`; the whole batch without them.
        generator: on the CPU, so that the same numbers are drawn wherever the images are.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    tops, lefts = torch.randint(0, 2 * padding + 1, (2, of or count, 1), generator=generator)[:, own]
    rows = (tops + torch.arange(height)).to(images.device)  # (N, H)
    columns = (lefts + torch.arange(width)).to(images.device)  # (N, W)
    samples = torch.arange(count, device=images.device)[:, None, None]
    # Indexing around the channel dimension puts it last: (N, H, W, C).
    return padded[samples, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def flip(images: Tensor, generator: torch.Generator, *, of: int | None = None, own: slice = ALL) -> Tensor:
    """Return the images, each mirrored left to right with probability one half; arguments as of `shift`."""
    mirrored = torch.rand(of or images.shape[0], generator=generator)[own] < 0.5
    return torch.where(mirrored[:, None, None, None].to(images.device), images.flip(-1), images)


def random_part(image: Image.Image, size: int, generator: torch.Generator) -> np.ndarray:
    """Return a random part of the image, brought to (size, size, 3), mirrored half of the time."""
    left, top, width, height = random_box(*image.size, generator)
    mirrored = torch.rand((), generator=generator) < 0.5
    box = (left, top, left + width, top + height)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return pixels[:, ::-1] if mirrored else pixels


def random_box(width: int, height: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Return (left, top, width, height) of a part of an image: 8 to 100% of its area, three by four to four by three.

    Draws and rounds as torchvision's RandomResizedCrop, which draws from the generator that everybody shares, and takes
    seconds to be imported by each process that decodes.
    """
    narrowest, widest = ASPECT
    logarithms = torch.tensor(ASPECT).log().tolist()
    for _ in range(TRIES):
        area = width * height * torch.empty(1).uniform_(*AREA, generator=generator).item()
        aspect = torch.empty(1).uniform_(*logarithms, generator=generator).exp().item()
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(height - h + 1, (), generator=generator))
            left = int(torch.randint(width - w + 1, (), generator=generator))
            return left, top, w, h
    # The largest part of such an aspect, from the middle.
    w = min(width, round(height * widest)) if width / height > widest else width
    h = min(height, round(width / narrowest)) if width / height < narrowest else height
    return (width - w) // 2, (height - h) // 2, w, h
