"""Rows, grid and seeds to cells: what each trains, what it is called, which goes first."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from asqcli.data.layout import data_traits
from asqcli.errors import RecipeError, UsageError, some_of
from asqcli.recipe.mistakes import Mistake
from asqcli.recipe.resolve import Request, resolve
from asqcli.recipe.schema import Recipe, scheme_of
from asqcli.recipe.shipped import shipped_recipes
from asqcli.study.command import FLAGS, request_of, start_arguments
from asqcli.study.load import EPOCHS, SEED, flat, part_of_name, rows_of
from asqcli.study.schema import BITS, MODEL, SCHEME, RowKeys, StudyFile

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
        return _bits(self.recipe)


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


def expand(file: StudyFile, path: Path, *, data: str | None, weights: str | None, overrides: list[str]) -> Study:
    """Return the study of a file.

    Args:
        path: of the file, whose stem is the study's name.
        data, weights: over what the file has for all cells; rows that differ in them go first.
        overrides: KEY=VALUE, over everything.
    Raises:
        RecipeError: what rows make of their recipes has mistakes, all told together, or two rows get one name.
        InputError: the recipe's file does not exist.
    """
    shared = flat(file.set)
    shared |= {key: value for key, value in (("data.name", data), ("pretrained", weights)) if value is not None}
    recipe, traits = _recipe_name(file.recipe, path), cache(data_traits)
    rows: list[Row] = []
    mistakes: dict[Mistake, list[str]] = {}
    asked = [(base, keys, point) for base, keys in rows_of(file).items() for point in _points(file, keys)]
    for base, keys, point in asked:
        request = request_of(
            point.get(MODEL, file.model),
            recipe,
            {**shared, **flat(keys.set), **{key: value for key, value in point.items() if key != MODEL}},
            overrides,
        )
        extra = {key: value for key, value in point.items() if key != BITS and _states(keys, key) is None}
        name = " ".join(filter(None, (base, *(part_of_name(k, v) for k, v in extra.items() if k != EPOCHS))))
        try:
            resolved = resolve(request, traits=traits).recipe
            if not resolved.quantized and _states(keys, EPOCHS) is None:
                request = _as_long(request, resolved, resolve(replace(request, scheme=None), traits=traits).recipe)
                resolved = resolve(request, traits=traits).recipe
        except RecipeError as error:
            for mistake in error.mistakes:
                mistakes.setdefault(mistake, []).append(name)
        except UsageError as error:
            mistakes.setdefault((error.message, error.hint), []).append(name)
        else:
            place = tuple((key, str(value)) for key, value in extra.items())
            cells = tuple(_cell(name or path.stem, request, resolved, seed, EPOCHS in extra) for seed in file.seeds)
            rows.append(Row(name or path.stem, base, place, resolved, cells))
    told = [(_in_rows(names, message, len(asked)), hint) for (message, hint), names in mistakes.items()]
    if told := told or list(_same_names(rows)):
        raise RecipeError(told, f"`{path}`")
    return Study(path.stem, tuple(rows), file.against if file.against is not None else rows[0].base)


def _recipe_name(name: str | None, study: Path) -> str | None:
    """Return a shipped recipe's name as it is, and a file's path as it lies beside the study's."""
    return name if name is None or name in shipped_recipes() else str(study.parent / name)


def _points(file: StudyFile, keys: RowKeys) -> Iterator[dict[str, Any]]:
    """Yield the places in the grid that a row has, what the row says itself included: key to value."""
    lists = {key: values for key, values in file.grid.items() if _states(keys, key) is None}
    lists |= {key: stated for key in (MODEL, SCHEME, BITS) if (stated := _states(keys, key)) is not None}
    seen: list[dict[str, Any]] = []
    for values in product(*lists.values()):
        point = dict(zip(lists, values, strict=True))
        if point.get(SCHEME) == FLOAT:  # which has no bits
            point.pop(BITS, None)
        if point not in seen:
            seen.append(point)
            yield point


def _states(keys: RowKeys, key: str) -> list[Any] | None:
    """Return the values that a row has for a key of the grid, None where it says nothing of it."""
    if key == BITS:
        return keys.bits
    if key in (MODEL, SCHEME):
        stated = keys.model if key == MODEL else keys.scheme
        return None if stated is None else [stated]
    dotted = flat(keys.set)
    return [dotted[key]] if key in dotted else None


def _as_long(request: Request, recipe: Recipe, quantized: Recipe) -> Request:
    """Return a float row's request with as many epochs as quantized rows train, in float first where they do.

    Args:
        recipe, quantized: what the request comes to, and what it does with quantizers.
    """
    t = quantized.train
    epochs = t.epochs + (t.warmup.epochs if quantized.pretrained in ("auto", "none") else 0)
    if epochs == recipe.train.epochs or t.max_steps is not None:
        return request
    return replace(request, flags={**request.flags, EPOCHS: (epochs, FLAGS[EPOCHS])})


def _cell(row: str, request: Request, recipe: Recipe, seed: int, with_epochs: bool) -> Cell:
    train = recipe.train.model_copy(update={"seed": seed})
    bits = _bits(recipe)
    parts = [re.sub(r"[^\w.+=]+", "-", row.lower()).strip("-.")]
    if bits != FLOAT:
        parts.append(f"w{bits}a{bits}" if isinstance(bits, int) else bits)
    if with_epochs:
        parts.append(f"e{train.epochs}")
    name = "-".join([*filter(None, parts), f"seed{seed}"])
    asked = replace(request, flags={**request.flags, SEED: (seed, "--seed")})
    return Cell(name, seed, asked, recipe.model_copy(update={"train": train}))


def _bits(recipe: Recipe) -> int | str:
    weights, activations = (getattr(operand, BITS, FLOAT) for operand in (recipe.weights, recipe.activations))
    return weights if weights == activations else f"w{weights}a{activations}"


def _in_rows(names: list[str], message: str, rows: int) -> str:
    return message if len(names) == rows else f"row {some_of(list(dict.fromkeys(names)))}: {message}"


def _same_names(rows: list[Row]) -> Iterator[Mistake]:
    """Yield the rows whose cells would share a folder."""
    owners: dict[str, str] = {}
    for row in rows:
        name = row.cells[0].name
        if name in owners:
            yield f"rows `{owners[name]}` and `{row.name}` would share the folder `{name}`", "give one another name"
        owners[name] = row.name
