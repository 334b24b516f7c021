"""What is read from the folder of a run: everything but its network."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asqcli.recipe.schema import Recipe
from asqcli.report.findings import Findings
from asqcli.run.folder import RunFolder


@dataclass(frozen=True)
class Subject:
    """A run, finished or not.

    Attributes:
        label: a short name, which no other run of the report has.
        folder: of its files.
        recipe: as resolved.
        result: None while it is not finished.
        epochs: the records of its metrics.
        environment: what it ran on.
    """

    label: str
    folder: RunFolder
    recipe: Recipe
    result: dict[str, Any] | None
    epochs: list[dict[str, Any]]
    environment: dict[str, Any]


def read_subjects(paths: Sequence[Path]) -> list[Subject]:
    """Return the runs in these folders.

    Raises:
        InputError: one is no run, or a file of it is corrupt.
    """
    folders = [RunFolder.open(path) for path in paths]
    return [
        Subject(label, folder, folder.recipe(), folder.result(), folder.metrics(), folder.environment())
        for label, folder in zip(_labels(paths), folders, strict=True)
    ]


def _labels(paths: Sequence[Path]) -> list[str]:
    """Return as much of the end of each path as tells it from the others."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    labels = ["/".join(own[-1:]) for own in parts]
    for length in range(2, max(map(len, parts), default=0) + 1):
        again = Counter(labels)
        labels = ["/".join(own[-length:]) if again[label] > 1 else label
                  for own, label in zip(parts, labels, strict=True)]  # fmt: skip
    return labels


@dataclass(frozen=True)
class RunReport:
    """What there is to show of a run.

    Attributes:
        subject: its files.
        findings: what was measured of its network.
        index: of the run in the report, by which it looks the same in all pictures.
    """

    subject: Subject
    findings: Findings
    index: int

    @property
    def label(self) -> str:
        """A short name, which no other run of the report has."""
        return self.subject.label
