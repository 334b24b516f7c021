"""A process's share of every batch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """The part `number`, from 0, of the `of` parts that images are cut into; they differ by one image at most."""

    number: int = 0
    of: int = 1

    def cut(self, count: int) -> slice:
        """Return where the part lies in a row of so many images.

        >>> [Part(number, 3).cut(8) for number in range(3)]
        [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
        """
        size, larger = divmod(count, self.of)
        begin = self.number * size + min(self.number, larger)
        return slice(begin, begin + size + (self.number < larger))


WHOLE = Part()
