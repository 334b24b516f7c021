"""What the nodes of a graph share, and what each kind of them must say of itself.

A node is one operation: it reads values made before it and makes one. Shapes are those of one sample, (C, H, W) or
(features,).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from asqcli.strict import Strict

Shape = tuple[int, ...]

LARGEST_SIDE = 4096
Name = Annotated[str, Field(max_length=512)]
TensorName = Annotated[str, Field(min_length=1, max_length=512)]
Value = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1, le=2**24)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Border = Annotated[int, Field(ge=0, le=LARGEST_SIDE)]
Pair = tuple[Side, Side]  # down, across
Borders = tuple[Border, Border, Border, Border]  # top, left, bottom, right

Account = Literal["codes", "level_tables", "weight_scales", "biases", "step_sizes", "adapters", "batch_norms", "floats"]

MEAN_PASSES = 4  # elementwise operations for each number that a mean reads


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a node names, and what it must be.

    Attributes:
        name: in the file.
        dtype: as NumPy calls it.
        account: what its bytes are counted as.
        shared: may it be named by nodes that are not alike? An engine then reads it, and packs nothing.
    """

    name: str
    dtype: Literal["uint8", "int8", "float32"]
    shape: Shape
    account: Account
    shared: bool = False


@dataclass(frozen=True)
class Work:
    """What computing a node on NumPy takes, one sample: a bound that is near the truth where it is large.

    Attributes:
        products: multiply-adds of matrix products in float32; in double each counts twice.
        elementwise: operations on one number by itself.
        calls: operations on arrays, however small.
        multiply_adds: of a convolution or linear layer, as people count them.
    """

    products: int = 0
    elementwise: int = 0
    calls: int = 0
    multiply_adds: int = 0

    def __add__(self, other: Work) -> Work:
        """Return the work of both.

        >>> Work(products=1) + Work(products=2, calls=3)
        Work(products=3, elementwise=0, calls=3, multiply_adds=0)
        """
        return Work(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Windows:
    """Where a convolution or pool looks at an image.

    Attributes:
        kernel_size, stride, dilation: down, across.
        borders: top, left, bottom, right.
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    borders: tuple[int, int, int, int]
    dilation: tuple[int, int] = (1, 1)

    def padded(self, image: Shape) -> tuple[int, int]:
        """Return height and width with the borders."""
        top, left, bottom, right = self.borders
        return image[1] + top + bottom, image[2] + left + right

    def fit(self, image: Shape) -> bool:
        """Is there one window at least?"""
        return all(n >= e for n, e in zip(self.padded(image), self._extents(), strict=True))

    def count(self, image: Shape) -> tuple[int, int]:
        """Return the number of windows, down and across.

        >>> Windows((3, 3), (2, 2), (1, 1, 1, 1)).count((8, 32, 31))
        (16, 16)
        """
        sides = zip(self.padded(image), self._extents(), self.stride, strict=True)
        down, across = ((n - e) // s + 1 for n, e, s in sides)
        return down, across

    def _extents(self) -> tuple[int, int]:
        """Return the pixels that a window spans, down and across."""
        down, across = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        return down, across


class Node(Strict):
    """One operation. Every class derived from it is a kind of node, and must have `op` and the abstract methods.

    What kinds have in common they take from classes that are no nodes, listed before this one.

    Attributes:
        op: its tag in the document, a `Literal`; the default is the one tag that the kind has.
        name: for people, unique where the node stands for a layer.
        inputs: the values that it reads.
    """

    if TYPE_CHECKING:
        op: str
    name: Name
    inputs: Annotated[tuple[Value, ...], Field(min_length=1, max_length=1)]

    @classmethod
    def __pydantic_init_subclass__(cls, **_) -> None:
        missing = [*["op"] * ("op" not in cls.model_fields), *sorted(cls.__abstractmethods__)]
        if missing:
            raise TypeError(f"the kind of node {cls.__name__} does not say its {', '.join(missing)}")

    @abstractmethod
    def tensors(self, inputs: Sequence[Shape]) -> Iterable[TensorSpec]:
        """Return the tensors that it names; those of inputs of these shapes."""

    @abstractmethod
    def problem(self, inputs: Sequence[Shape]) -> str | None:
        """Return why it cannot read values of these shapes, or None."""

    @abstractmethod
    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the shape of its value; `inputs` are without a problem."""

    @abstractmethod
    def work(self, inputs: Sequence[Shape], output: Shape) -> Work:
        """Return what computing its value takes."""

    def content_problem(self, tensors: Mapping[str, np.ndarray]) -> str | None:
        """Return what is wrong with its settings and the contents of its tensors, which fit their specs, or None."""
        return None

    @property
    def windows(self) -> Windows | None:
        """Where it looks at an image, if it does so by windows with borders."""
        return None

    def padded_size(self, x: Shape) -> int:
        """Return the numbers of the copy with borders that an engine may make of an input; 0: none."""
        return 0 if self.windows is None else x[0] * math.prod(self.windows.padded(x))

    def traffic(self, inputs: Sequence[Shape], output: Shape) -> Work:
        """Return the work of reading and writing values alone."""
        read = sum(max(math.prod(x), self.padded_size(x)) for x in inputs)
        return Work(elementwise=read + math.prod(output), calls=8 + len(inputs))


if TYPE_CHECKING:
    MixedIn = Node  # traits that kinds have in common are always mixed into one
else:
    MixedIn = object


class WithoutTensors(MixedIn):
    """What holds for kinds of node that name no tensors."""

    def tensors(self, inputs: Sequence[Shape]) -> Iterable[TensorSpec]:
        return ()
