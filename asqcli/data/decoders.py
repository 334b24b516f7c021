"""Image files decoded by processes that last as long as their data set, a few batches ahead of who asks.

PyTorch's loader runs them: it carries pixels in shared memory, and notices who dies. They are told each batch, paths
and all, by whichever pass is under way; so they know of no split, and no pass needs a list of its images.
"""

from __future__ import annotations

import atexit
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from weakref import finalize

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import shared_cache
from torch.utils.data import DataLoader, Dataset

from asqcli.data.preprocessing import Preprocessing
from asqcli.errors import InputError
from asqcli.machine import usable_processors

Request = tuple[str, tuple[int, ...] | None]  # path, what names the random part of training; None for evaluation
Requests = Sequence[Request]  # of a batch
Task = tuple[int, Requests]  # number of the pass, a batch of it
Answer = Tensor | InputError | None  # pixels (N, H, W, 3) uint8; why there are none; None where nobody waits for it


class Decoders:
    """What decodes the images of a data set.

    Args:
        preprocessing: of the images.
        workers: how many processes; without any, images are decoded by who asks. More than there are processors would
            only wait for one another.
    """

    def __init__(self, preprocessing: Preprocessing, workers: int) -> None:
        self.workers = min(workers, usable_processors())
        self._wanted = torch.zeros((), dtype=torch.int64).share_memory_()  # number of the pass under way
        self._decoder = _Decoder(preprocessing, self._wanted)
        self._tasks = _Tasks()
        self._loader: DataLoader[Answer] | None = None
        self._answers: Iterator[Answer] = iter(())

    def start(self) -> None:
        """Start the processes. The sooner the better: what this process has in memory then, they keep."""
        if self._loader is None and self.workers:
            self._loader = DataLoader(
                self._decoder,
                batch_size=None,  # a task is a batch
                sampler=self._tasks,
                num_workers=self.workers,
                persistent_workers=True,
                worker_init_fn=_leave_signals,
                generator=torch.Generator(),  # instead of the one that everybody draws from
            )
            self._answers = iter(self._loader)
            _RUNNING[self._answers] = self._wanted
            self._end = finalize(self, _end, self._answers)

    def close(self) -> None:
        """End the processes."""
        if self._loader is not None:
            self._end()
            self._loader, self._answers = None, iter(())

    def decode(self, batches: Iterable[Requests]) -> Iterator[Tensor]:
        """Yield the pixels of each batch, (N, H, W, 3) uint8.

        Passes may be left at any time. Those that are under way side by side are right, too, but slow.

        Raises:
            InputError: an image cannot be used; names the file.
        """
        this = _Pass(iter(batches))
        try:
            while (answer := self._answer_to(this) if self.workers else self._answer_here(this)) is not None:
                if isinstance(answer, InputError):
                    raise answer
                yield answer
        finally:
            this.end()
            if this.number == int(self._wanted):
                self._wanted += 1  # nobody waits for what was asked ahead

    def _answer_here(self, this: _Pass) -> Answer:
        this.asked.clear()
        task = next(this, None)
        return None if task is None else self._decoder[int(self._wanted), task[1]]

    def _answer_to(self, this: _Pass) -> Answer:
        """Return the processes' answer to the next batch of a pass; None at its end."""
        try:
            self.start()
            assert self._loader is not None
            if this.number != int(self._wanted):
                self._wanted += 1
                this.begin(int(self._wanted))
                self._tasks.of_pass = this
                self._answers = iter(self._loader)  # the same processes; first gets rid of answers to others
            answer = next(self._answers, None)
            # PyTorch keeps a word of each of the last 128 tensors from other processes. These words lie where freed
            # batches were, which then fit there no more: memory grew by 128 batches, 800 MB at 64 pixels.
            shared_cache.free_dead_references()
        except Exception:
            self.close()  # a process has died
            raise
        if answer is not None:
            this.asked.popleft()
        return answer


class _Pass(Iterator[Task]):
    """Batches, as tasks for the processes.

    Attributes:
        number: of the pass, another one each time that it begins.
        asked: batches without an answer yet.
    """

    def __init__(self, batches: Iterator[Requests]) -> None:
        self.number = -1
        self.asked: deque[Requests] = deque()
        self._again: deque[Requests] = deque()  # asked before another pass came between
        self._batches = batches

    def begin(self, number: int) -> None:
        """Go on, with what has no answer yet."""
        self.number = number
        self._again.extendleft(reversed(self.asked))
        self.asked.clear()

    def end(self) -> None:
        """Let go of everything: the loader keeps the pass until the next one."""
        self._again.clear()
        self.asked.clear()
        self._batches = iter(())

    def __next__(self) -> Task:
        self.asked.append(self._again.popleft() if self._again else next(self._batches))
        return self.number, self.asked[-1]


class _Tasks:
    """The tasks of whichever pass is under way, for PyTorch's loader."""

    of_pass: Iterator[Task] = iter(())

    def __iter__(self) -> Iterator[Task]:
        return self.of_pass


class _Decoder(Dataset[Answer]):
    """From tasks to pixels; what a process has."""

    def __init__(self, preprocessing: Preprocessing, wanted: Tensor) -> None:
        self.preprocessing, self.wanted = preprocessing, wanted

    def __getitem__(self, task: Task) -> Answer:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch calls a key index
        number, requests = task
        size = self.preprocessing.image_size
        pixels = np.empty((len(requests), size, size, 3), np.uint8)
        for place, (path, seed) in enumerate(requests):
            if number != int(self.wanted):
                return None
            try:
                if seed is None:
                    pixels[place] = self.preprocessing.evaluation_pixels(path)
                else:
                    pixels[place] = self.preprocessing.training_pixels(path, seed)
            except InputError as error:
                return error  # raised here, the loader would wrap it in text
        return torch.from_numpy(pixels)


def _leave_signals(_worker: int) -> None:
    """Let a process outlive what batch systems and terminals send to all those of a job; its parent ends it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


# Iterators of PyTorch's loaders, and the numbers of their passes. By itself such an iterator ends its processes when
# nobody holds it any more. That is too late where a traceback does to the end, and may fail where it is found in a
# circle: its pipes can be closed before.
_RUNNING: dict[Iterator[Answer], Tensor] = {}


def _end(answers: Any) -> None:
    """End the processes that answer, after the image at hand."""
    if (wanted := _RUNNING.pop(answers, None)) is not None:
        wanted += 1
        answers._shutdown_workers()


@atexit.register
def _end_all() -> None:
    """End all processes while there is time: Python itself sends them a signal that they leave, and waits."""
    for answers in list(_RUNNING):
        _end(answers)
