"""The file of a study: every key, with its type and meaning. Unknown keys are errors."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from asqcli.strict import Strict

BITS, MODEL, SCHEME = "bits", "model", "scheme"  # keys of a row and of the grid that are options, not keys of a recipe

Text = Annotated[str, StringConstraints(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class RowKeys(Strict):
    """In what a row differs, as flags of `asq quantize` say it.

    Attributes:
        bits: one width or several, each of which is a row of the table.
        set: keys of a recipe, nested or dotted, laid over everything else as `--set` does.
    """

    model: Text | None = None
    scheme: Text | None = None
    bits: list[int] | None = None
    set: dict[str, Any] = Field(default_factory=dict)

    @field_validator("bits", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, int) and not isinstance(value, bool) else value


class StudyFile(Strict):
    """One study.

    Attributes:
        model, recipe, set: what all cells share, as MODEL, `--recipe` and `--set`; a recipe's file is looked for beside
            the study's.
        seeds: of each row, `train.seed`.
        rows: by their names, in the order of the table. Without them the values of the grid's first key are rows.
        grid: key to values, of which every combination is a row: `bits`, `scheme`, `model` or a key of a recipe. What a
            row says itself goes first.
        against: the row that the others are compared with; the first where none is named.
    """

    model: Text | None = None
    recipe: Text | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    seeds: list[Seed] = Field(default=[0])
    rows: dict[Text, RowKeys] = Field(default_factory=dict)
    grid: dict[Text, list[Any]] = Field(default_factory=dict)
    against: Text | None = None
