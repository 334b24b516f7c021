"""Several processes as threads of this one: what they compute together, without what it takes to start them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from asqcli.processes.group import Group
from asqcli.processes.part import Part


class Threads(Group):
    """A group whose sums are made over threads; whatever is not overridden is as in processes."""

    def __init__(self, rank: int, size: int, shared: dict[str, Any]) -> None:
        self.rank, self.size, self.local_rank, self.local_size, self.shared = rank, size, rank, size, shared

    def add_up(self, tensor: Tensor) -> None:
        with torch.no_grad():
            tensor.copy_(torch.stack(self._exchange(tensor.detach().clone())).sum(0))

    def largest(self, numbers) -> list[float]:
        return [max(column) for column in zip(*self._exchange(list(numbers)), strict=True)]

    def copy_from_first(self, tensors) -> None:
        tensors = list(tensors)
        with torch.no_grad():
            for own, first in zip(tensors, self._exchange([t.detach().clone() for t in tensors])[0], strict=True):
                own.copy_(first)

    def _exchange(self, value: Any) -> list[Any]:
        """Return the values of all threads, which have all come here."""
        self.shared["values"][self.rank] = value
        self.shared["barrier"].wait()
        values = list(self.shared["values"])
        self.shared["barrier"].wait()
        return values


def in_threads(size: int, work: Callable[[Threads], Any]) -> list[Any]:
    """Return what `work` returns in each of so many threads; an exception in one of them is raised here."""
    shared = {"values": [None] * size, "barrier": threading.Barrier(size, timeout=120)}
    results: list[Any] = [None] * size
    failures: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(Threads(rank, size, shared))
        except BaseException as error:
            failures.append(error)
            shared["barrier"].abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise next((f for f in failures if not isinstance(f, threading.BrokenBarrierError)), failures[0])
    return results


def own_part(tensor: Tensor, threads: Threads) -> Tensor:
    """Return the part of a batch that a thread takes."""
    return tensor[Part(threads.rank, threads.size).cut(len(tensor))]
