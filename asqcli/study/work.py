"""The folder of a study: what each cell has come to, and what is to be done next.

CELL/                              a run's folder for each cell
logs/CELL.log                      what its process told
study.json  study.md  study.csv    what all of them came to, written after each

Whether a cell is done stands in its own folder, wherever it was made. That one failed is remembered by study.json.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from asqcli.errors import InputError, UsageError
from asqcli.files import PART, check_readable, machine_errors, what_is_wrong, write_atomically
from asqcli.recipe.changes import changes_in_words
from asqcli.run.folder import RunFolder
from asqcli.run.going_on import resume_arguments
from asqcli.study.cells import Cell, Study
from asqcli.study.command import start_arguments, threads_option
from asqcli.study.document import RUNNING, WAITING, Outcome, Status, study_document
from asqcli.study.processes import End, Job
from asqcli.study.table import as_csv, as_markdown

DOCUMENT, MARKDOWN, CSV, LOGS = "study.json", "study.md", "study.csv", "logs"
SHOWN_CELLS = 3  # whose recipes changed


class _RecordedCell(BaseModel):
    """What is read again of a cell in `study.json`."""

    model_config = ConfigDict(strict=True)

    status: Status
    reason: str | None
    exit_code: int | None
    command: str


class _RecordedRow(BaseModel):
    cells: list[_RecordedCell]


class _Recorded(BaseModel):
    rows: list[_RecordedRow]


class Work:
    """A study's folder.

    Args:
        out: need not be there yet.
        retry: the names of cells that are tried again where they failed.
    Raises:
        InputError: a result, a recipe or `study.json` is corrupt.
        UsageError: a cell was made from another recipe than the file's.
    """

    def __init__(self, study: Study, out: Path, *, retry: Collection[str] = ()) -> None:
        self.study, self.out = study, out
        self._require_same_recipes()
        commands = {cell.command for cell in study.cells if cell.name in retry}
        failures = {command: outcome for command, outcome in self._failures().items() if command not in commands}
        self.outcomes = {
            cell.name: self._result(cell) or failures.get(cell.command) or self._unfinished(cell)
            for cell in study.cells
        }

    @property
    def document(self) -> dict[str, Any]:
        """The study's document as it stands."""
        return study_document(self.study, self.outcomes)

    def waiting(self) -> list[Cell]:
        """Return the cells that are to be trained, in their order."""
        return self._with_status("waiting")

    def running(self) -> list[Cell]:
        """Return the cells that others train, or that are at work here."""
        return self._with_status("running")

    def _with_status(self, status: Status) -> list[Cell]:
        return [cell for cell in self.study.cells if self.outcomes[cell.name].status == status]

    def run(self, cell: Cell) -> RunFolder:
        """Return the folder of a cell's run."""
        return RunFolder(self.out / cell.name)

    def arguments(self, cell: Cell, threads: int | None) -> list[str]:
        """Return the arguments of `asq` that start a cell, or go on with it.

        Args:
            threads: of one that starts; another goes on with those that it had, for the same bits.
        """
        folder = self.run(cell)
        if not folder.started:
            return start_arguments(cell.request, out=str(folder.path), threads=threads)
        threads = threads if folder.threads() is None else None
        return [*resume_arguments(cell.recipe, folder.path), *threads_option(threads)]

    def job(self, cell: Cell, threads: int | None) -> Job:
        """Return what trains a cell, once there is a place for it."""
        folder = self.run(cell)
        if folder.path.is_dir() and not folder.started:
            self._clear(folder.path)
        return Job(cell.name, self.arguments(cell, threads), self.log(cell.name))

    def log(self, cell: str) -> Path:
        """Return the file with what a cell's process told."""
        return self.out / LOGS / f"{cell}.log"

    def prepare(self) -> None:
        """Make the folders."""
        with machine_errors(self.out):
            (self.out / LOGS).mkdir(parents=True, exist_ok=True)

    def started(self, cell: str) -> None:
        """Note that a cell is at work."""
        self._note(cell, RUNNING)

    def ended(self, cell: Cell, end: End) -> Outcome:
        """Note how a cell ended; return what it came to."""
        outcome = self._result(cell)
        if outcome is None and end.stopped:
            outcome = WAITING
        elif outcome is None and self._unfinished(cell) == RUNNING:  # it was begun elsewhere just before
            outcome = RUNNING
        elif outcome is None:
            outcome = Outcome("failed", reason=end.reason or "it left no result", exit_code=end.code)
        self._note(cell.name, outcome)
        return outcome

    def write(self) -> None:
        """Write the tables and the document, each atomically."""
        document = self.document
        write_atomically(self.out / MARKDOWN, as_markdown(document))
        write_atomically(self.out / CSV, as_csv(document))
        write_atomically(self.out / DOCUMENT, (json.dumps(document, indent=2) + "\n").encode())

    def _note(self, cell: str, outcome: Outcome) -> None:
        self.outcomes[cell] = outcome
        self.write()

    def _unfinished(self, cell: Cell) -> Outcome:
        """Return if a cell is to be trained, or is at work in a process of somebody else, as of a cluster's queue."""
        return RUNNING if self.run(cell).trained_elsewhere else WAITING

    def _result(self, cell: Cell) -> Outcome | None:
        """Return what a finished cell came to."""
        result = self.run(cell).result()
        if result is None:
            return None
        doubtful = not result.get("float_trained", True) or result.get("float_of_quantized", False)
        beside_float = cell.recipe.quantized and not doubtful
        return Outcome("done", result["top1"], result["float_top1"] if beside_float else None)

    def _require_same_recipes(self) -> None:
        changed: list[str] = []
        for cell in self.study.cells:
            folder = self.run(cell)
            if folder.started and (changes := changes_in_words(folder.recipe(), cell.recipe)) is not None:
                changed.append(f"`{folder.path}`: {changes}")
        if changed:
            more = [f"and {len(changed) - SHOWN_CELLS} more"] if len(changed) > SHOWN_CELLS else []
            told = "\n".join(f"  - {text}" for text in [*changed[:SHOWN_CELLS], *more])
            raise UsageError(
                f"cells were made from other recipes than the study now has:\n{told}",
                "take the changes back, choose another `--out`, or remove these folders",
            )

    def _failures(self) -> dict[str, Outcome]:
        """Return the cells that failed before: the command line to what was told."""
        path = self.out / DOCUMENT
        if not path.is_file():
            return {}
        check_readable(path)
        try:
            recorded = _Recorded.model_validate_json(path.read_bytes())
        except ValidationError as error:
            hint = "remove it: cells that are done stay done, those that failed are tried again"
            raise InputError(f"`{path}` is corrupt: {what_is_wrong(error)}", hint) from error
        failed = [cell for row in recorded.rows for cell in row.cells if cell.status == "failed"]
        return {cell.command: Outcome("failed", reason=cell.reason, exit_code=cell.exit_code) for cell in failed}

    def _clear(self, folder: Path) -> None:
        """Take away what a process left that was killed before its run had begun."""
        entries = list(folder.iterdir())
        if strange := [entry for entry in entries if not entry.name.endswith(PART)]:
            raise UsageError(f"`{strange[0]}` is not of a run", f"move it away: `{folder}` is the folder of a cell")
        with machine_errors(folder):
            for entry in entries:
                entry.unlink()
