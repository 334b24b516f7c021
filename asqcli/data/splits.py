"""One split of a data set, as batches of normalised images.

Small images are held in memory and augmented as whole batches; large ones are decoded from their files by worker
processes.
The order of a pass and all its augmentation are a function of the seed given, whatever the batch it starts from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from asqcli.data.decoders import Decoders, Requests
from asqcli.data.paths import Paths
from asqcli.data.preprocessing import Preprocessing
from asqcli.data.samples import spread
from asqcli.processes.part import WHOLE, Part
from asqcli.seeds import generator

Batch = tuple[Tensor, Tensor]  # images (N, 3, H, W) float32, labels (N,) int64


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

    def at(self, device: torch.device) -> Split:
        """Return a split of the same images that yields its batches on a device, if it can hold all images there."""
        ...

    def spread(self, count: int) -> Split:
        """Return a split of `count` of the images, evenly spread, or of all."""
        ...

    def section(self, where: slice) -> Split:
        """Return a split of the images that lie there."""
        ...

    def relabelled(self, labels: Tensor) -> Split:
        """Return a split of the same images with other labels, (N,) int64."""
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
            drawn, chosen = generator(*seed, number), indices[own].to(self.pixels.device)
            pixels = self.preprocessing.augment_batch(self.pixels[chosen], drawn, of=of, own=own)
            yield self.preprocessing.normalize(pixels), self.labels[chosen]

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        for pixels, labels in zip(self.pixels.split(batch_size), self.labels.split(batch_size), strict=True):
            yield self.preprocessing.normalize(pixels), labels

    def at(self, device: torch.device) -> MemorySplit:
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def spread(self, count: int) -> MemorySplit:
        chosen = spread(len(self), count)
        return replace(self, pixels=self.pixels[chosen], labels=self.labels[chosen])

    def section(self, where: slice) -> MemorySplit:
        return replace(self, pixels=self.pixels[where], labels=self.labels[where])

    def relabelled(self, labels: Tensor) -> MemorySplit:
        return replace(self, labels=labels)


@dataclass(frozen=True)
class FileSplit:
    """Images decoded from their files as they are needed."""

    paths: Paths
    labels: Tensor
    preprocessing: Preprocessing
    decoders: Decoders

    def __len__(self) -> int:
        return len(self.paths)

    def train_batches(
        self, batch_size: int, *, seed: tuple[int, ...], first: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        order = _order(self, batch_size, seed, first)
        requests = (
            [(self.paths[i], (*seed, number, i)) for i in indices[part.cut(len(indices))].tolist()]
            for number, indices in order
        )
        for (number, indices), pixels in zip(order, self._decode(requests), strict=True):
            own = part.cut(of := len(indices))
            pixels = self.preprocessing.augment_batch(pixels, generator(*seed, number), of=of, own=own)
            yield self.preprocessing.normalize(pixels), self.labels[indices[own]]

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        in_order = torch.arange(len(self)).split(batch_size)
        requests = ([(self.paths[i], None) for i in indices.tolist()] for indices in in_order)
        for indices, pixels in zip(in_order, self._decode(requests), strict=True):
            yield self.preprocessing.normalize(pixels), self.labels[indices]

    def at(self, device: torch.device) -> FileSplit:
        return self

    def spread(self, count: int) -> FileSplit:
        chosen = spread(len(self), count)
        return replace(self, paths=self.paths.take(chosen), labels=self.labels[chosen])

    def section(self, where: slice) -> FileSplit:
        return replace(self, paths=self.paths.take(where), labels=self.labels[where])

    def relabelled(self, labels: Tensor) -> FileSplit:
        return replace(self, labels=labels)

    def _decode(self, requests: Iterable[Requests]) -> Iterator[Tensor]:
        """Yield (N, 3, H, W) uint8 pixels, channels last in memory, for the requests of each batch."""
        # A number drawn for each pass, as PyTorch's loader does: adapters get the starting values that they always got.
        torch.empty((), dtype=torch.int64).random_()
        for pixels in self.decoders.decode(requests):
            yield pixels.permute(0, 3, 1, 2)
