"""The memory of a native plan, to which its steps point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from asqcli.engine.interface import NotNative
from asqcli.engine.native.bindings import Op

LINE = 64  # bytes of a cache line
LARGEST_PLAN = 2**28  # bytes; VGG-16 on images of 224 pixels takes an eighth


@dataclass(eq=False)
class Storage:
    """Memory of one value or of several that are the same numbers; given back after its last use."""

    array: np.ndarray
    uses: int
    reusable: bool = True
    producer: Op | None = None  # the step that writes it, if it can sum its rows
    row_sums: int | None = None  # their address

    @property
    def address(self) -> int:
        return self.array.ctypes.data


class Memory:
    """Arrays that live as long as a plan.

    Args:
        shared: packed weights and the like by name, made by the first plan and shared by all.
    """

    def __init__(self, shared: dict[str, np.ndarray]) -> None:
        self.shared_arrays = shared
        self.kept: list[np.ndarray] = []
        self.free: list[np.ndarray] = []
        self.bytes = 0

    def reserve(self, size: int) -> None:
        """Count bytes of values, codes and gaps between weights.

        Raises:
            NotNative: they are more than LARGEST_PLAN together.
        """
        self.bytes += size
        if self.bytes > LARGEST_PLAN:
            raise NotNative(f"values and codes of more than {LARGEST_PLAN:,} bytes together")

    def keep(self, array: np.ndarray) -> np.ndarray:
        """Return a copy that begins at a cache line."""
        memory = np.empty(array.nbytes + LINE, np.uint8)
        start = -memory.ctypes.data % LINE
        aligned = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        aligned[...] = array
        self.kept.append(aligned)
        return aligned

    def point(self, array: np.ndarray) -> int:
        """Return the address of a copy."""
        return self.keep(array).ctypes.data

    def share(self, name: str, make: Callable[[], np.ndarray]) -> int:
        """Return the address of an array that all plans share."""
        if name not in self.shared_arrays:
            self.shared_arrays[name] = self.keep(np.ascontiguousarray(make()))
        return self.shared_arrays[name].ctypes.data

    def store(self, size: int, uses: int, *, reusable: bool = True) -> Storage:
        """Return memory for a value of `size` floats, the smallest free piece that holds it."""
        fitting = [array for array in self.free if array.size >= size] if reusable else []
        if fitting:
            array = min(fitting, key=lambda a: a.size)
            self.free = [a for a in self.free if a is not array]
        else:
            self.reserve(4 * size)
            array = self.keep(np.zeros(size, np.float32))
        return Storage(array, uses, reusable)

    def release(self, storage: Storage, uses: int) -> None:
        """Take uses off; after the last one the memory is free for other values."""
        storage.uses -= uses
        if storage.uses == 0 and storage.reusable:
            self.free.append(storage.array)
