"""Image files and data sets to classes and accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from asqcli import images
from asqcli.accuracy import Accuracy, AccuracyCounter, log_softmax
from asqcli.artifact.document import Document
from asqcli.engine.session import Session
from asqcli.errors import InputError

CHUNK_BATCHES = 4  # batches of images that each thread gets at a time


@dataclass(frozen=True)
class Class:
    """One of the most likely classes of an image; score: its softmax share, 0 to 1."""

    index: int
    label: str
    score: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image, the most likely class first, or why the image cannot be read."""

    path: str
    classes: tuple[Class, ...]
    error: str | None = None


def read_pixels(path: images.FilePath, document: Document) -> np.ndarray:
    """Return the pixels that the network sees of an image file, (size, size, 3) uint8.

    Raises:
        InputError: missing, damaged, not an image, or one that cannot be used; names the file.
    """
    return images.read_pixels(path, resize=document.input.resize, size=document.input.image_size)


def normalize(pixels: np.ndarray, document: Document) -> np.ndarray:
    """Return network input from (N, size, size, 3) uint8."""
    return images.normalize(pixels, document.input.mean, document.input.std)


def predict(session: Session, paths: list[str], *, top_k: int) -> Iterator[tuple[list[Prediction], np.ndarray]]:
    """Yield (predictions of some image files, the network's input from those that can be read), in order.

    An image that cannot be read does not stop the others.

    Args:
        top_k: classes of each prediction.
    """
    document = session.artifact.document
    size = _chunk_size(session)
    for chunk in (paths[first : first + size] for first in range(0, len(paths), size)):
        decoded = [_try_to_read(path, document) for path in chunk]
        good = [pixels for pixels in decoded if isinstance(pixels, np.ndarray)]
        inputs = normalize(np.stack(good), document) if good else np.empty(0, np.float32)
        logits = iter(session.run(inputs) if good else ())
        yield (
            [_prediction(path, pixels, logits, document, top_k) for path, pixels in zip(chunk, decoded, strict=True)],
            inputs,
        )


def _prediction(
    path: str, pixels: np.ndarray | InputError, logits: Iterator[np.ndarray], document: Document, top_k: int
) -> Prediction:
    if isinstance(pixels, InputError):
        return Prediction(path, (), pixels.message)
    return Prediction(path, _top_classes(next(logits), document.classes, top_k))


def _try_to_read(path: str, document: Document) -> np.ndarray | InputError:
    try:
        return read_pixels(path, document)
    except InputError as error:
        return error


def _top_classes(logits: np.ndarray, names: tuple[str, ...], top_k: int) -> tuple[Class, ...]:
    shares = np.exp(log_softmax(logits[None].astype(np.float64)))[0]
    order = np.argsort(-logits, kind="stable")[:top_k]
    return tuple(Class(int(i), names[i], float(shares[i])) for i in order)


def input_batches(session: Session, samples: Any, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (input (N, 3, H, W) float32, labels (N,)) over samples of `asqcli.data.samples`, `size` at a time."""
    document = session.artifact.document
    for first in range(0, len(samples), size):
        labels = samples.labels[first : first + size]
        if hasattr(samples, "paths"):
            pixels = np.stack([read_pixels(path, document) for path in samples.paths[first : first + size]])
        else:
            pixels = images.fit(
                samples.pixels[first : first + size], resize=document.input.resize, size=document.input.image_size
            )
        yield normalize(pixels, document), labels


def measure(session: Session, samples: Any) -> Accuracy:
    """Return the accuracy on samples of `asqcli.data.samples`."""
    counter = AccuracyCounter()
    for inputs, labels in input_batches(session, samples, _chunk_size(session)):
        counter.add(session.run(inputs), labels)
    return counter.result()


def _chunk_size(session: Session) -> int:
    """Return how many images keep every thread busy and little memory."""
    return session.batch * session.threads * CHUNK_BATCHES
