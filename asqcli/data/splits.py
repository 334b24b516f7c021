"""One split of a data set, as batches of normalised images.

Small images are held in memory and augmented as whole batches; large ones are decoded from their files by worker
processes.
The order of a pass and all its augmentation are a function of the seed given, whatever the batch it starts from.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from asqcli import images
from asqcli.data.augment import flip, shift
from asqcli.data.samples import spread
from asqcli.errors import InputError
from asqcli.machine import usable_processors
from asqcli.processes.part import WHOLE, Part
from asqcli.seeds import generator

Batch = tuple[Tensor, Tensor]  # images (N, 3, H, W) float32, labels (N,) int64


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded image to the network's input.

    Attributes:
        image_size: height and width of the input, pixels.
        resize: length of the shorter side before the centre crop, pixels.
        mean, std: per channel, of pixels scaled to 0 .. 1.
        augment: `none`, `shift` (random crop from a padded image), `shift_flip`, or `resized_crop` (a random part of
            the image, brought to size, and flips).
        padding: pixels around the image for the shift.
    """

    image_size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augment: str
    padding: int

    def evaluation_pixels(self, path: images.FilePath) -> np.ndarray:
        """Return the pixels that evaluation sees of an image file, (image_size, image_size, 3) uint8."""
        return images.read_pixels(path, resize=self.resize, size=self.image_size)

    def augment_batch(self, pixels: Tensor, generator: torch.Generator, *, of: int, own: slice) -> Tensor:
        """Return (N, 3, H, W) uint8 pixels with the augmentations that work on whole batches.

        Args:
            pixels: of the images that lie in `own`, in a batch of `of` images.
        """
        if self.augment in ("shift", "shift_flip"):
            pixels = shift(pixels, self.padding, generator, of=of, own=own)
        if self.augment == "shift_flip":
            pixels = flip(pixels, generator, of=of, own=own)
        return pixels

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return float32 input from (N, 3, H, W) uint8 pixels, channels last in memory.

        In that layout, which the network then keeps, a training step of ResNet-20 takes four fifths of the time.
        """
        multiplier, addend = (torch.from_numpy(v)[:, None, None] for v in images.normalization(self.mean, self.std))
        pixels = pixels.to(torch.float32, memory_format=torch.channels_last)
        return pixels.mul_(multiplier).add_(addend)


Request = tuple[int, tuple[int, ...] | None]  # index, seed of the random part to cut out or None
Sample = tuple[Any, int, InputError | None]  # pixels, label, or why there are none


class Split(Protocol):
    """What training and evaluation ask of a split."""

    @property
    def labels(self) -> Tensor:
        """Class numbers, (N,) int64."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """From an image to the network's input."""
        ...

    def __len__(self) -> int: ...

    def train_batches(
        self, batch_size: int, *, seed: tuple[int, ...], first: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        """Yield one pass over all images, shuffled and augmented; `first` batches are passed over.

        The batches are of equal size, give or take one image, and of `batch_size` at most: a small last batch would
        upset batch norm, and none of the images is left out. `seed`: whole numbers that name the pass. `part`: which
        images of each batch to yield.
        """
        ...

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield every image once, in order."""
        ...

    def spread(self, count: int) -> Split:
        """Return a split of `count` of the images, evenly spread, or of all."""
        ...

    def section(self, where: slice) -> Split:
        """Return a split of the images that lie there."""
        ...


def batches_per_pass(split: Split, batch_size: int) -> int:
    """Return the number of batches of one training pass."""
    return math.ceil(len(split) / batch_size)


def _order(split: Split, batch_size: int, seed: tuple[int, ...], first: int) -> list[tuple[int, Tensor]]:
    """Return (number, indices) of each batch of a pass, from the batch `first` on."""
    permutation = torch.randperm(len(split), generator=generator(*seed))
    batches = permutation.tensor_split(batches_per_pass(split, batch_size))
    return list(enumerate(batches))[first:]


@dataclass(frozen=True)
class MemorySplit:
    """All images decoded, (N, 3, H, W) uint8."""

    pixels: Tensor
    labels: Tensor
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.labels)

    def train_batches(
        self, batch_size: int, *, seed: tuple[int, ...], first: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        for number, indices in _order(self, batch_size, seed, first):
            own = part.cut(of := len(indices))
            drawn = generator(*seed, number)
            pixels = self.preprocessing.augment_batch(self.pixels[indices[own]], drawn, of=of, own=own)
            yield self.preprocessing.normalize(pixels), self.labels[indices[own]]

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        for pixels, labels in zip(self.pixels.split(batch_size), self.labels.split(batch_size), strict=True):
            yield self.preprocessing.normalize(pixels), labels

    def spread(self, count: int) -> MemorySplit:
        chosen = spread(len(self), count)
        return replace(self, pixels=self.pixels[chosen], labels=self.labels[chosen])

    def section(self, where: slice) -> MemorySplit:
        return replace(self, pixels=self.pixels[where], labels=self.labels[where])


@dataclass(frozen=True)
class FileSplit:
    """Images decoded from their files as they are needed."""

    paths: tuple[str, ...]
    labels: Tensor
    preprocessing: Preprocessing
    workers: int

    def __len__(self) -> int:
        return len(self.paths)

    def train_batches(
        self, batch_size: int, *, seed: tuple[int, ...], first: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        order = _order(self, batch_size, seed, first)
        cut = self.preprocessing.augment == "resized_crop"
        requests = [
            [(int(i), (*seed, number, int(i)) if cut else None) for i in indices[part.cut(len(indices))]]
            for number, indices in order
        ]
        for (number, indices), (pixels, labels) in zip(order, self._load(requests), strict=True):
            own = part.cut(of := len(indices))
            pixels = self.preprocessing.augment_batch(pixels, generator(*seed, number), of=of, own=own)
            yield self.preprocessing.normalize(pixels), labels

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        in_order = torch.arange(len(self)).split(batch_size)
        for pixels, labels in self._load([[(int(i), None) for i in indices] for indices in in_order]):
            yield self.preprocessing.normalize(pixels), labels

    def spread(self, count: int) -> FileSplit:
        chosen = spread(len(self), count)
        return replace(self, paths=tuple(self.paths[i] for i in chosen), labels=self.labels[chosen])

    def section(self, where: slice) -> FileSplit:
        return replace(self, paths=self.paths[where], labels=self.labels[where])

    def _load(self, requests: list[list[Request]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (pixels (N, 3, H, W) uint8, labels) for each batch of requests."""
        # More of them would only wait for one another, and PyTorch would say so.
        workers = min(self.workers, usable_processors())
        loader = DataLoader(
            _Decoder(self),
            batch_sampler=requests,
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_leave_signals,
        )
        for pixels, labels, failure in loader:
            if failure is not None:
                raise failure
            yield pixels, labels


def _leave_signals(_worker: int) -> None:
    """Let a worker outlive what batch systems and terminals send to all processes of a job; its parent ends it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Decoder(Dataset[Sample]):
    """Its keys are (index, seed of the random part to cut out, or None for the pixels of evaluation)."""

    def __init__(self, split: FileSplit) -> None:
        self.split = split

    def __getitem__(self, request: Request) -> Sample:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch calls a key index
        index, seed = request
        preprocessing = self.split.preprocessing
        try:
            if seed is None:
                pixels = preprocessing.evaluation_pixels(self.split.paths[index])
            else:
                image = images.open_image(self.split.paths[index])
                pixels = _random_part(image, preprocessing.image_size, generator(*seed))
        except InputError as error:
            return None, index, error  # worker processes would wrap it in text
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1), int(self.split.labels[index]), None


def _random_part(image: Image.Image, size: int, generator: torch.Generator) -> np.ndarray:
    """Return 8 to 100% of the image's area, brought to (size, size, 3), mirrored half of the time."""
    from torchvision.transforms import RandomResizedCrop

    # torchvision draws from torch's global generator, which training steps seed anew: borrow it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        top, left, height, width = RandomResizedCrop.get_params(
            image,  # pyright: ignore[reportArgumentType]  # it takes Pillow's, too
            scale=[0.08, 1.0],
            ratio=[3 / 4, 4 / 3],
        )
        mirrored = torch.rand(()) < 0.5
    pixels = np.asarray(
        image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    )
    return pixels[:, ::-1] if mirrored else pixels


def _collate(samples: list[Sample]) -> tuple[Tensor | None, Tensor | None, Exception | None]:
    for _, _, failure in samples:
        if failure is not None:
            return None, None, failure
    return torch.stack([s[0] for s in samples]), torch.tensor([s[1] for s in samples]), None
