"""A file to logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asqcli.artifact import Artifact, read_artifact
from asqcli.engine.dispatch import AUTO, choose_network
from asqcli.engine.interface import Observer
from asqcli.engine.numpy.network import batch_size
from asqcli.errors import InputError


def load(path: str | Path, *, kernel: str = AUTO, threads: int = 1) -> Session:
    """Return a session on an exported file.

    Args:
        kernel: auto, or a name of NATIVE_KERNELS or NUMPY_KERNELS in `asqcli.engine.dispatch`.
        threads: how many compute images or batches at the same time, or share the work on one image.
    Raises:
        InputError: the file is missing, corrupt or inconsistent.
        UsageError: there is no such kernel.
        MachineError: the processor does not run it, or it was not compiled.
        UnsupportedError: it has no step for one of the network's nodes.
    """
    return Session(read_artifact(Path(path)), kernel=kernel, threads=threads)


class Session:
    """A network, ready to run; `run` is for one thread at a time.

    Args:
        artifact, kernel, threads: as in `load`.

    Attributes:
        kernel: the name of what runs.
        notice: why it is not a native kernel, where it could have been one, or None.
    """

    def __init__(self, artifact: Artifact, *, kernel: str = AUTO, threads: int = 1) -> None:
        self.artifact, self.threads = artifact, threads
        self.kernel, self.network, self.notice = choose_network(artifact, kernel, threads)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return (3, height, width) of one input."""
        channels, height, width = self.artifact.graph.shapes[0]
        return channels, height, width

    @property
    def batch(self) -> int:
        """Return a number of images that it is good to run together."""
        return batch_size(self.artifact)

    def run(self, images: np.ndarray, *, observe: Observer | None = None) -> np.ndarray:
        """Return the logits, (N, classes) float32. A sample's logits do not depend on the others.

        Args:
            images: normalised, (N, 3, height, width) float32.
            observe: called with (layer, codes, accumulators) for each quantized layer and part of the batch.
        Raises:
            InputError: images of another shape, or values beyond float32.
        """
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            raise InputError(f"the network takes images of shape {self.input_shape}, not {images.shape[1:]}")
        if len(images) == 0:
            return np.empty((0, len(self.artifact.document.classes)), np.float32)
        logits = self.network.run(np.asarray(images, np.float32), observe)
        if not np.isfinite(logits).all():
            raise InputError("the network's values leave the range of float32")
        return logits
