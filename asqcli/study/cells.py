"""The cells of a study: what each trains, what it is called, which goes first, which rows are compared."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from asqcli.recipe.resolve import Request
from asqcli.recipe.schema import Recipe, scheme_of
from asqcli.study.command import start_arguments
from asqcli.study.schema import BITS

FLOAT = "float"


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        name: of its folder.
        request: its command line.
        recipe: what that comes to.
    """

    name: str
    seed: int
    request: Request
    recipe: Recipe

    @property
    def command(self) -> str:
        """The shell line that makes it from within the study's folder: by it a failure is known again."""
        return shlex.join(["asq", *start_arguments(self.request, out=self.name, threads=None)])


@dataclass(frozen=True)
class Row:
    """A line of the table: the same recipe for every seed.

    Attributes:
        name: as the table has it.
        base: of the file's row that it comes from.
        point: its place in the grid, bits aside.
        recipe: of all its cells, the seed aside.
        cells: one for each seed, in their order.
    """

    name: str
    base: str
    point: tuple[tuple[str, str], ...]
    recipe: Recipe
    cells: tuple[Cell, ...]

    @property
    def scheme(self) -> str:
        """The scheme's name, or those of both quantizers."""
        return scheme_of(self.recipe.weights.quantizer, self.recipe.activations.quantizer)

    @property
    def bits(self) -> int | str:
        """Bits of weights and activations: a number where they are the same, else such as `w2a4`, or `float`."""
        return bits_of(self.recipe)


@dataclass(frozen=True)
class Study:
    """All rows, and what they are compared with.

    Attributes:
        name: of its file.
        against: the base of the rows that the others are compared with.
    """

    name: str
    rows: tuple[Row, ...]
    against: str

    @property
    def cells(self) -> list[Cell]:
        """In the order in which they are trained, cheapest evidence first: fewer epochs, then the first seed of all."""
        cells = [cell for of_one_seed in zip(*(row.cells for row in self.rows), strict=True) for cell in of_one_seed]
        return sorted(cells, key=lambda cell: cell.recipe.train.epochs)

    def partner(self, row: Row) -> Row | None:
        """Return the row that another is compared with: at its place in the grid, float or with its bits and epochs."""
        if row.base == self.against:
            return None
        for other in self.rows:
            same_bits = other.bits == row.bits and other.recipe.train.epochs == row.recipe.train.epochs
            if other.base == self.against and (same_bits or other.bits == FLOAT) and other.point == row.point:
                return other
        return None


def bits_of(recipe: Recipe) -> int | str:
    """Return the bits of weights and activations, as `Row.bits`."""
    weights, activations = (getattr(operand, BITS, FLOAT) for operand in (recipe.weights, recipe.activations))
    return weights if weights == activations else f"w{weights}a{activations}"
