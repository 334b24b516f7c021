"""What processes that train one network add up, agree on and wait for: the interface, and a process alone.

No torch at run time: the command line asks for it before there is any.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from asqcli.processes.part import WHOLE, Part

if TYPE_CHECKING:
    from torch import Tensor, nn


class Processes:
    """This process alone, for which nothing is copied, rounded or waited for; and the interface of several.

    Attributes:
        rank: its number, from 0; the first one writes files and prints.
        size: how many there are.
        local_rank, local_size: the same among those on this machine.
    """

    rank, size, local_rank, local_size = 0, 1, 0, 1

    @property
    def first(self) -> bool:
        """Is this the process that writes and prints?"""
        return self.rank == 0

    @property
    def part(self) -> Part:
        """The share of every batch that this process takes."""
        return WHOLE

    def sum(self, *numbers: float) -> tuple[float, ...]:
        """Return numbers, each added up over all processes, exactly for counts."""
        return numbers

    def largest(self, numbers: Sequence[float]) -> list[float]:
        """Return the largest of each number over all processes."""
        return list(numbers)

    def add_up(self, tensor: Tensor) -> None:
        """Add a tensor up over all processes, in place; it is the same in all of them afterwards."""

    def weigh(self, loss: Tensor, images: int) -> Tensor:
        """Return what a process goes back from: its mean loss, weighed by its images where there are others."""
        return loss

    def add_gradients(self, model: nn.Module, images: int) -> None:
        """Add up the gradients of losses that were weighed, and divide them by the images of all processes."""

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors the values that they have in the first process."""

    def texts(self, text: str) -> list[str]:
        """Return the texts of all processes, in the order of their numbers."""
        return [text]

    def agree_to_stop(self, number: int | None) -> int | None:
        """Return the number of the signal that any process has got, None where none has."""
        return number

    def wait(self) -> None:
        """Wait until all processes have come here."""

    @contextmanager
    def one_at_a_time(self) -> Generator[None]:
        """Let the first process of each machine go ahead, as into a cache that downloads are kept in."""
        if self.local_rank:
            self.wait()
        yield
        if not self.local_rank:
            self.wait()


ALONE = Processes()
