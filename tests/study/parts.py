"""Studies for the tests: from the text of their file, and with what their cells came to."""

from __future__ import annotations

from pathlib import Path

from asqcli.study.cells import Study
from asqcli.study.document import Outcome
from asqcli.study.expand import expand
from asqcli.study.load import read_study


def study_of(tmp_path: Path, text: str, *, data=None, weights=None, overrides=()) -> Study:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return expand(read_study(path), path, data=data, weights=weights, overrides=list(overrides))


def done(top1: float, float_top1: float | None = 90.0) -> Outcome:
    return Outcome("done", top1, float_top1)


def outcomes_of(study: Study, top1: dict[str, list[float]]) -> dict[str, Outcome]:
    """Return outcomes by the names of rows with their bits, `LSQ 3`, and their values seed by seed; others wait."""
    found = {}
    for row in study.rows:
        values = top1.get(f"{row.name} {row.bits}", [])
        for n, cell in enumerate(row.cells):
            found[cell.name] = done(values[n]) if n < len(values) else Outcome("waiting")
    return found
