"""What `asq study --dry-run` tells: every cell, where it stands, and how long those that wait will take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asqcli.study.cells import Cell
from asqcli.study.coincidence import coincidences
from asqcli.study.document import SCHEMA
from asqcli.study.estimate import Estimator, NotTimed, cost_of_a_step, duration, time_a_step
from asqcli.study.work import Work


def plan_document(
    work: Work, cells: list[Cell], todo: list[Cell], *, jobs: int, threads: int | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Return the cells of a study with an estimate, for which a step is timed where none like them was trained yet.

    Args:
        cells: to tell of.
        todo: those of them that are to be trained.
        jobs, threads: how they are to be trained.
        tell: hears what is being timed.
    Returns:
        among all else `failures`: of each cell whose step could not be timed its `run`, `exit_code` and `reason`.
    """
    seconds, how, failures = _estimate(work, todo, threads, tell)
    known = [value for value in seconds.values() if value is not None]
    return {
        "schema": SCHEMA,
        "study": work.study.name,
        "out": str(work.out),
        "cells": [_cell(work, cell, seconds.get(cell.name)) for cell in cells],
        "coincidences": list(coincidences(work.study.rows)),
        "seconds": round(sum(known) / jobs, 1) if len(known) == len(seconds) else None,
        "estimate": _in_words(seconds, jobs, how),
        "failures": failures,
    }


def _cell(work: Work, cell: Cell, seconds: float | None) -> dict[str, Any]:
    outcome = work.outcomes[cell.name]
    return {
        "run": cell.name,
        "epochs": cell.recipe.train.epochs,
        "status": outcome.status,
        "top1": outcome.top1,
        "reason": outcome.reason,
        "command": cell.command,
        "seconds": None if seconds is None else round(seconds, 1),
    }


def _estimate(
    work: Work, todo: list[Cell], threads: int | None, tell: Callable[[str], None]
) -> tuple[dict[str, float | None], list[str], list[dict[str, Any]]]:
    """Return how long each cell will take, None where nothing tells; in words where that is from; what failed."""
    estimator, how, failures = Estimator(work), list[str](), list[dict[str, Any]]()
    seconds = {cell.name: estimator.seconds(cell) for cell in todo}
    if known := sum(value is not None for value in seconds.values()):
        how.append(f"{known} of {len(todo)} cells by those like them that are done")
    unknown: dict[Any, list[Cell]] = {}
    for cell in todo:
        if seconds[cell.name] is None:
            unknown.setdefault(cost_of_a_step(cell.recipe), []).append(cell)
    for cells in unknown.values():
        quantized = next((cell for cell in cells if cell.recipe.quantized), None)
        if quantized is None:
            how.append(f"none of {cells[0].name}, as no step of float training alone is timed")
            continue
        tell(f"timing a step of {quantized.name}, as no cell like it is done")
        timed = time_a_step(quantized, threads)
        if isinstance(timed, NotTimed):
            failures.append({"run": quantized.name, "exit_code": timed.code, "reason": timed.reason})
            how.append(f"none of {len(cells)} cells, a step of {quantized.name} cannot be timed: {timed.reason}")
            continue
        seconds |= {cell.name: timed.seconds(cell.recipe) for cell in cells}
        how.append(
            f"{len(cells)} of {len(todo)} cells by a step of {quantized.name}, timed just now: "
            f"{timed.quantized_ms:.0f} ms (float {timed.float_ms:.0f} ms), {timed.steps:,} to an epoch; evaluation and "
            "the start of each process not counted"
        )
    return seconds, how, failures


def _in_words(seconds: dict[str, float | None], jobs: int, how: list[str]) -> str:
    if not seconds:
        return "Nothing is left to train."
    unknown = sum(value is None for value in seconds.values())
    if unknown == len(seconds):
        return f"No estimate: {'; '.join(how)}."
    total = sum(value for value in seconds.values() if value is not None) / jobs
    beside = f", but for {unknown} cells" if unknown else ""
    at_once = f", {jobs} cells at once if they do not slow each other" if jobs > 1 else ""
    return f"About {duration(total)} in all{beside}{at_once}. Estimated: {'; '.join(how)}."
