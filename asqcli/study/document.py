"""`study.json`, and what `asq study --json` prints: every row, its cells, its figures, its comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from asqcli.study.cells import Row, Study
from asqcli.study.coincidence import coincidences
from asqcli.study.statistics import compare, mean, spread

SCHEMA = 1
PLACES = 3  # of percentages

Status = Literal["done", "running", "waiting", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What a cell has come to.

    Attributes:
        top1, float_top1: of a cell that is done, percent; the latter None of a float cell, and where the float network
            was never trained, or has weights that were trained quantized.
        reason, exit_code: of one that failed; the code is negative where a signal killed it.
    """

    status: Status
    top1: float | None = None
    float_top1: float | None = None
    reason: str | None = None
    exit_code: int | None = None


WAITING, RUNNING = Outcome("waiting"), Outcome("running")


def study_document(study: Study, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Return what a study has come to so far.

    Args:
        outcomes: of all cells, by name.
    """
    comparisons = []
    for row in study.rows:
        if (other := study.partner(row)) is not None:
            found = compare(_top1(row, outcomes), _top1(other, outcomes))
            comparisons.append(
                {
                    "row": row.name,
                    "against": other.name,
                    "bits": row.bits,
                    "epochs": row.recipe.train.epochs,
                    "pairs": found.pairs,
                    "wins": found.wins,
                    "mean_difference": _rounded(found.mean_difference),
                    "p_value": found.p_value,
                    "verdict": found.verdict,
                }
            )
    return {
        "schema": SCHEMA,
        "study": study.name,
        "rows": [_row(row, outcomes) for row in study.rows],
        "comparisons": comparisons,
        "coincidences": list(coincidences(study.rows)),
    }


def _row(row: Row, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    found = [outcomes[cell.name] for cell in row.cells]
    top1 = [o.top1 for o in found if o.top1 is not None]
    to_float = [o.top1 - o.float_top1 for o in found if o.top1 is not None and o.float_top1 is not None]
    return {
        "row": row.name,
        "scheme": row.scheme,
        "bits": row.bits,
        "epochs": row.recipe.train.epochs,
        "cells": [
            {
                "seed": cell.seed,
                "run": cell.name,
                "status": outcome.status,
                "top1": outcome.top1,
                "float_top1": outcome.float_top1,
                "reason": outcome.reason,
                "exit_code": outcome.exit_code,
                "command": cell.command,
            }
            for cell, outcome in zip(row.cells, found, strict=True)
        ],
        "mean": _rounded(mean(top1)),
        "spread": _rounded(spread(top1)),
        "to_float": _rounded(mean(to_float)),
    }


def _top1(row: Row, outcomes: Mapping[str, Outcome]) -> dict[int, float]:
    found = {cell.seed: outcomes[cell.name].top1 for cell in row.cells}
    return {seed: top1 for seed, top1 in found.items() if top1 is not None}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, PLACES)
