"""The rows of study.json as text: what the terminal, study.md and study.csv show."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CSV_COLUMNS = ("row", "scheme", "bits", "epochs", "seeds", "mean", "spread", "to_float")
CSV_COMPARISON = ("against", "pairs", "wins", "mean_difference", "p_value")


@dataclass(frozen=True)
class TextTable:
    """Headings, rows of as many texts, and what stands below."""

    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]


def text_table(document: dict[str, Any]) -> TextTable:
    """Return a study's document for people; comparisons stand in the line of their row."""
    rows, comparisons = document["rows"], _by_row(document)
    several_epochs = len({row["epochs"] for row in rows}) > 1
    against = list(dict.fromkeys(c["against"] for c in document["comparisons"]))
    headings = ["row", "bits", *["epochs"] * several_epochs, "seeds", "top-1", "spread", "to float"]
    if against:
        headings += [f"to {against[0]}" if len(against) == 1 else "compared", "wins", "which shows"]
    lines: list[tuple[str, ...]] = []
    for row in rows:
        line = [row["row"], str(row["bits"]), *[str(row["epochs"])] * several_epochs, _seeds(row["cells"])]
        line += [_number(row["mean"]), _number(row["spread"]), _signed(row["to_float"])]
        if against:
            line += _compared(comparisons.get(_key(row)), name_it=len(against) > 1)
        lines.append(tuple(line))
    return TextTable(tuple(headings), lines, list(_notes(document)))


def as_markdown(document: dict[str, Any]) -> bytes:
    """Return the content of study.md."""
    table = text_table(document)
    lines = [f"# {document['study']}", ""]
    lines += [_line(table.headings), _line(["---"] * len(table.headings)), *map(_line, table.rows)]
    for note in table.notes:
        lines += ["", _escaped(note)]
    return ("\n".join(lines) + "\n").encode()


def as_csv(document: dict[str, Any]) -> bytes:
    """Return the content of study.csv: a line for each row, with the top-1 of each seed in its last columns."""
    text, comparisons = io.StringIO(), _by_row(document)
    seeds = [cell["seed"] for cell in document["rows"][0]["cells"]]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*CSV_COLUMNS, *CSV_COMPARISON, *(f"top1_seed{seed}" for seed in seeds)])
    for row in document["rows"]:
        comparison = comparisons.get(_key(row), {})
        values = {**row, "seeds": sum(cell["status"] == "done" for cell in row["cells"])}
        cells = [values[column] for column in CSV_COLUMNS] + [comparison.get(column) for column in CSV_COMPARISON]
        writer.writerow([*cells, *(cell["top1"] for cell in row["cells"])])
    return text.getvalue().encode()


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["row"], line["bits"], line["epochs"]


def _by_row(document: dict[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {_key(comparison): comparison for comparison in document["comparisons"]}


def _seeds(cells: list[dict[str, Any]]) -> str:
    counts = {status: sum(cell["status"] == status for cell in cells) for status in ("done", "running", "failed")}
    if counts["done"] == len(cells):
        return str(len(cells))
    others = [f"{counts[status]} {status}" for status in ("running", "failed") if counts[status]]
    return ", ".join([f"{counts['done']} of {len(cells)}", *others])


def _compared(comparison: dict[str, Any] | None, *, name_it: bool) -> list[str]:
    if comparison is None:
        return ["", "", ""]
    difference = _signed(comparison["mean_difference"])
    wins = f"{comparison['wins']} of {comparison['pairs']}" if comparison["pairs"] else ""
    return [f"{difference} to {comparison['against']}" if name_it else difference, wins, comparison["verdict"]]


def _notes(document: dict[str, Any]) -> list[str]:
    cells = [cell for row in document["rows"] for cell in row["cells"]]
    notes = [f"{text}." for text in document["coincidences"]]
    notes += [f"{cell['run']} failed: {cell['reason']}" for cell in cells if cell["status"] == "failed"]
    if any(row["mean"] is not None for row in document["rows"]):
        notes.append(
            "top-1 in percent, mean over the seeds that are done; spread: sample standard deviation; to float: points "
            "to the float network of the same run."
        )
    if any(comparison["p_value"] is not None for comparison in document["comparisons"]):
        notes.append(
            "p: two-sided paired t-test over the seeds, for one comparison at a time; among many some are small by "
            "chance."
        )
    return notes


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escaped, texts)) + " |"


def _escaped(text: str) -> str:
    """Return a text for a line of Markdown."""
    return " ".join(text.replace("|", "\\|").split())
