"""Read the file of a study, and tell all its mistakes at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from asqcli.errors import RecipeError, did_you_mean
from asqcli.recipe.load import Draft, read_recipe
from asqcli.recipe.mistakes import Mistake, mistake_in_words
from asqcli.study.schema import BITS, MODEL, SCHEME, RowKeys, StudyFile

EPOCHS, SEED = "train.epochs", "train.seed"


def read_study(path: Path) -> StudyFile:
    """Return the content of a study's file.

    What its rows make of their recipe is checked when they are resolved.

    Raises:
        InputError: the file is missing or unreadable.
        UsageError: it is not YAML, or has mistakes, all told together.
    """
    draft = Draft()
    draft.overlay(read_recipe(path, "study"), str(path))
    try:
        file = StudyFile.model_validate(draft.values)
    except ValidationError as error:
        found = [mistake_in_words(e, draft, model=StudyFile) for e in error.errors()]
        raise RecipeError(found, f"`{path}`") from error
    if mistakes := list(_mistakes(file)):
        raise RecipeError([(f"{message} in `{path}`", hint) for message, hint in mistakes], f"`{path}`")
    return file


def rows_of(file: StudyFile) -> dict[str, RowKeys]:
    """Return the rows by name: those of the file, else the values of the grid's first key, bits and epochs aside."""
    if file.rows:
        return file.rows
    key = next((key for key in file.grid if key not in (BITS, EPOCHS)), None)
    if key is None:
        return {"": RowKeys()}
    return {part_of_name(key, value): _with_key(key, value) for value in file.grid[key]}


def _with_key(key: str, value: Any) -> RowKeys:
    return RowKeys.model_validate({key: value} if key in (MODEL, SCHEME) else {"set": {key: value}})


def part_of_name(key: str, value: object) -> str:
    """Return what the value of a key adds to a row's name.

    >>> part_of_name("scheme", "lsq"), part_of_name("train.lr", 0.02)
    ('lsq', 'lr=0.02')
    """
    return str(value) if key in (MODEL, SCHEME) else f"{key.rpartition('.')[2]}={value}"


def flat(keys: dict[str, Any], inside: str = "") -> dict[str, Any]:
    """Return nested keys as dotted ones; a rule for layers stays whole, as dots belong to its pattern.

    >>> flat({"train": {"lr": 0.1, "distillation": {}}, "layers": {"layer1.*": {"weights": {"bits": 2}}}})
    {'train.lr': 0.1, 'train.distillation': {}, 'layers.layer1.*': {'weights': {'bits': 2}}}
    """
    dotted: dict[str, Any] = {}
    for key, value in keys.items():
        whole = not isinstance(value, dict) or not value or inside == "layers."
        dotted |= {f"{inside}{key}": value} if whole else flat(value, f"{inside}{key}.")
    return dotted


def _mistakes(file: StudyFile) -> Iterator[Mistake]:
    """Yield what is wrong with the file as a whole."""
    if not file.rows and not file.grid:
        yield "there are neither `rows` nor a `grid`", "for example `grid: {scheme: [lsq, asq], bits: [3, 4]}`"
    lists = {"seeds": file.seeds, **{f"grid.{key}": values for key, values in file.grid.items()}}
    lists |= {f"rows.{name}.bits": row.bits for name, row in file.rows.items() if row.bits is not None}
    for name, values in lists.items():
        if not values:
            yield f"`{name}` lists nothing", None
        for value in [v for n, v in enumerate(values) if v in values[:n]]:
            yield f"`{name}` lists {value} twice", None
    keys = {"set": flat(file.set), "grid": {key: None for key in file.grid if key not in (BITS, MODEL, SCHEME)}}
    keys |= {f"rows.{name}.set": flat(row.set) for name, row in file.rows.items()}
    for place, section in keys.items():
        for key in section:
            if key == SEED:
                yield f"`{place}` has `{SEED}`", "the seeds of a study stand under `seeds`"
            if key in (BITS, MODEL, SCHEME):
                yield f"`{place}` has `{key}`, which is no key of a recipe", f"`{key}` stands in a row or in the grid"
    named = file.model or file.recipe or MODEL in file.grid or (file.rows and all(r.model for r in file.rows.values()))
    if not named:
        yield "there is neither a `model` nor a `recipe`", "for example `model: resnet20`"
    if file.against is not None and file.against not in (rows := rows_of(file)):
        hint = did_you_mean(file.against, rows) or f"the rows are {', '.join(rows)}"
        yield f"`against` is `{file.against}`, which is no row", hint
