"""Rows, grid and seeds of a study's file to its cells, each with a recipe that is checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from asqcli.data.layout import data_traits
from asqcli.errors import RecipeError, UsageError, some_of
from asqcli.recipe.mistakes import Mistake
from asqcli.recipe.resolve import Request, resolve
from asqcli.recipe.schema import Recipe
from asqcli.recipe.shipped import shipped_recipes
from asqcli.study.cells import FLOAT, Cell, Row, Study, bits_of
from asqcli.study.command import FLAGS, request_of
from asqcli.study.load import EPOCHS, SEED, flat, part_of_name, rows_of
from asqcli.study.schema import BITS, MODEL, SCHEME, RowKeys, StudyFile

NO_SEED = 2**63 - 1  # stands where a cell's will, to see that nothing else says one


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
    recipe, traits = _recipe_name(file.recipe, path), cache(data_traits)  # else a folder is listed for every row
    rows: list[Row] = []
    mistakes: dict[Mistake, list[str]] = {}
    asked = [(base, keys, point) for base, keys in rows_of(file).items() for point in _points(file, keys)]
    for base, keys, point in asked:
        own = {**flat(keys.set), **{key: value for key, value in point.items() if key != MODEL}, SEED: NO_SEED}
        request = request_of(point.get(MODEL, file.model), recipe, {**shared, **own}, overrides)
        place = {key: value for key, value in point.items() if key != BITS and _states(keys, key) is None}
        name = " ".join(filter(None, (base, *(part_of_name(k, v) for k, v in place.items() if k != EPOCHS))))
        try:
            request, resolved = _resolve(
                request, lambda r: resolve(r, traits=traits).recipe, own_epochs=_states(keys, EPOCHS) is not None
            )
        except UsageError as error:
            found = error.mistakes if isinstance(error, RecipeError) else [(error.message, error.hint)]
            for mistake in found:
                mistakes.setdefault(mistake, []).append(name)
        else:
            name = name or path.stem
            cells = tuple(_cell(name, request, resolved, seed, EPOCHS in place) for seed in file.seeds)
            rows.append(Row(name, base, tuple((key, str(value)) for key, value in place.items()), resolved, cells))
    told = [(_in_rows(names, message, len(asked)), hint) for (message, hint), names in mistakes.items()]
    if told := told or list(_same_names(rows)):
        raise RecipeError(told, f"`{path}`")
    return Study(path.stem, tuple(rows), file.against if file.against is not None else rows[0].base)


def _resolve(request: Request, recipe_of: Callable[[Request], Recipe], *, own_epochs: bool) -> tuple[Request, Recipe]:
    """Return a row's request and what it comes to.

    A float row that says nothing of its epochs has as many as quantized rows train, in float first where they do.
    """
    recipe = recipe_of(request)
    if recipe.train.seed != NO_SEED:
        raise UsageError("`--set` names `train.seed`", "the seeds of a study stand in its file, under `seeds`")
    if recipe.quantized or own_epochs or recipe.train.max_steps is not None:
        return request, recipe
    quantized = recipe_of(replace(request, scheme=None))
    warmup = quantized.train.warmup.epochs if quantized.pretrained in ("auto", "none") else 0
    request = replace(request, flags={**request.flags, EPOCHS: (quantized.train.epochs + warmup, FLAGS[EPOCHS])})
    return request, recipe_of(request)


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


def _cell(row: str, request: Request, recipe: Recipe, seed: int, with_epochs: bool) -> Cell:
    train = recipe.train.model_copy(update={"seed": seed})
    bits = bits_of(recipe)
    parts = [re.sub(r"[^\w.+=]+", "-", row.lower()).strip("-.")]
    if bits != FLOAT:
        parts.append(f"w{bits}a{bits}" if isinstance(bits, int) else bits)
    if with_epochs:
        parts.append(f"e{train.epochs}")
    name = "-".join([*filter(None, parts), f"seed{seed}"])
    asked = replace(request, flags={**request.flags, SEED: (seed, FLAGS[SEED])})
    return Cell(name, seed, asked, recipe.model_copy(update={"train": train}))


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
