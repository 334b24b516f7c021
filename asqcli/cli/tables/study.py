"""What `asq study` prints: its table, and the cells of a dry run."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from asqcli.cli.console import percent, print_table, stdout
from asqcli.cli.streams import showable
from asqcli.errors import printable
from asqcli.study.estimate import duration
from asqcli.study.table import text_table

LEFT_HEADINGS = ("row", "which shows")


def print_study(document: dict[str, Any]) -> None:
    """Print the table of a study's document."""
    text, table = text_table(document), Table(box=box.SIMPLE_HEAD)
    for heading in text.headings:
        table.add_column(_shown(heading), justify="left" if heading in LEFT_HEADINGS else "right")
    for row in text.rows:
        table.add_row(*map(_shown, row))
    print_table(stdout(), f"Study {_shown(document['study'])}", table)
    for note in text.notes:
        stdout().print(_shown(note))


def print_plan(document: dict[str, Any]) -> None:
    """Print the cells of a study in their order, and how long those that wait will take."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("cell", overflow="fold")
    table.add_column("epochs", justify="right")
    table.add_column("stands")
    table.add_column("will take", justify="right")
    for cell in document["cells"]:
        stands = f"{cell['status']}, {percent(cell['top1'])}" if cell["status"] == "done" else cell["status"]
        stands += f": {cell['reason']}" if cell["reason"] else ""
        seconds = cell["seconds"]
        table.add_row(
            _shown(cell["run"]), str(cell["epochs"]), _shown(stands), "" if seconds is None else duration(seconds)
        )
    print_table(stdout(), f"Study {_shown(document['study'])}, in {_shown(document['out'])}", table)
    for note in (*document["coincidences"], document["estimate"]):
        stdout().print(_shown(note))


def _shown(text: str) -> str:
    return showable(printable(text))
