"""What is read from the folder of a study: many runs, as rows of a table, each with several seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from asqcli.errors import InputError
from asqcli.files import check_readable, what_is_wrong

STUDY = "study.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Cell(_Part):
    """One run of a row; accuracies in percent.

    Attributes:
        run: its folder, as seen from the study's.
        reason: why it failed.
    """

    seed: int
    run: str
    status: Literal["done", "running", "waiting", "failed"]
    top1: float | None = None
    float_top1: float | None = None
    reason: str | None = None


class Row(_Part):
    """One setting, with several seeds.

    Attributes:
        mean, spread: of the top-1 of the cells that are done, percent and points.
        to_float: mean distance from the float networks, points.
    """

    row: str
    scheme: str
    bits: int | str
    epochs: int | None = None
    cells: list[Cell] = Field(default_factory=list)
    mean: float | None = None
    spread: float | None = None
    to_float: float | None = None


class Comparison(_Part):
    """Two rows, seed by seed.

    Attributes:
        pairs, wins: seeds that both rows have, and in how many of them `row` is better.
        mean_difference: points.
    """

    row: str
    against: str
    bits: int | str
    pairs: int
    wins: int
    mean_difference: float | None = None
    p_value: float | None = None


class StudyDocument(_Part):
    """The content of `study.json`."""

    study: str
    rows: list[Row]
    comparisons: list[Comparison] = Field(default_factory=list)


@dataclass(frozen=True)
class Study:
    """A study and where it lies."""

    path: Path
    document: StudyDocument


def is_study(path: Path) -> bool:
    """Is a folder that of a study?"""
    return (path / STUDY).is_file()


def read_study(path: Path) -> Study:
    """Return the study in a folder.

    Raises:
        InputError: its file cannot be read, or is none.
    """
    file = path / STUDY
    check_readable(file)
    try:
        return Study(path, StudyDocument.model_validate_json(file.read_bytes()))
    except ValidationError as error:
        raise InputError(f"`{file}` is corrupt: {what_is_wrong(error)}") from error
