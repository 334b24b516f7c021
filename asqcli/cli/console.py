"""Tables, progress and messages. Results go to stdout; everything else to stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from asqcli.cli.streams import results, showable
from asqcli.errors import printable
from asqcli.measures import ACCURACY, Measure
from asqcli.train.reporter import Reporter

if TYPE_CHECKING:
    from asqcli.quant.spec import LayerSpec, QuantizerSpec

PIPED_WIDTH = 120


def stdout() -> Console:
    """Return the console for results."""
    return _console(stderr=False)


def stderr() -> Console:
    """Return the console for progress and messages."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else results()
    # No markup and no emoji: paths and names go through here, and `[/a]` or `:cat:` may stand in them.
    width = None if stream.isatty() else PIPED_WIDTH
    return Console(file=stream, highlight=False, markup=False, emoji=False, width=width)


def print_json(document: dict[str, Any]) -> None:
    """Print the one JSON document of a command."""
    results().write(json.dumps(document, indent=2) + "\n")


def print_facts(title: str, facts: dict[str, str]) -> None:
    """Print names and values as a table on stdout."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in facts.items():
        table.add_row(name, showable(printable(value)))
    print_table(stdout(), title, table)


def print_table(console: Console, title: str, table: Table) -> None:
    """Print a table under its title; rich's own titles are broken and padded to the table's width."""
    console.print(title, style="italic", markup=False, soft_wrap=True)
    console.print(table)


def note(text: str | None) -> None:
    """Tell of something on stderr; of nothing where there is nothing."""
    if text is not None:
        stderr().print(text, markup=False, soft_wrap=True)


def warn(text: str | None) -> None:
    """Tell of something on stderr that does not end the command; of nothing where there is nothing."""
    note(None if text is None else f"warning: {text}")


def remark(text: str | None) -> None:
    """Tell on stderr what the user should know; nothing where there is nothing."""
    note(None if text is None else f"note: {text}")


def tell_of_data(notes: tuple[str, ...]) -> None:
    """Tell on stderr how a folder of images was read: what was passed over, what was taken for what."""
    for text in notes:
        note(f"data: {text}")


def percent(value: float | None) -> str:
    """Return an accuracy for people."""
    return "-" if value is None else f"{value:.2f}%"


def print_layers(console: Console, specs: list[LayerSpec]) -> None:
    """Print what becomes of each layer: what is quantized, how, to how many bits."""
    table = Table()
    for heading in ("layer", "kind", "weights", "activations", "input", "adapter"):
        table.add_column(heading)
    for spec in specs:
        signed = {None: "seen at calibration", True: "signed", False: "unsigned"}[spec.signed]
        table.add_row(
            showable(printable(spec.name)),
            spec.kind,
            _operand(spec.weights),
            _operand(spec.activations),
            "" if spec.activations is None else signed,
            "" if spec.adapter is None else str(spec.adapter),
        )
    print_table(console, "Layers in the order of execution", table)


def _operand(spec: QuantizerSpec | None) -> str:
    return "float" if spec is None else str(spec)


class ConsoleReporter(Reporter):
    """Tells a person on stderr: a live bar in a terminal, one line an epoch when piped."""

    def __init__(self) -> None:
        self.console = stderr()
        self.progress: Progress | None = None
        self.task = None
        self.name = ""
        self.epochs = 0
        self.measure = ACCURACY

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def plan(self, specs: list[LayerSpec]) -> None:
        print_layers(self.console, specs)

    def measures(self, measure: Measure) -> None:
        self.measure = measure

    def phase(self, name: str, *, epochs: int, steps: int, first: int) -> None:
        self.close()
        self.name, self.epochs = name, epochs
        if self.console.is_terminal and first < steps:
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} steps"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[speed]} {task.fields[state]}"),
                console=self.console,
                transient=True,
            )
            self.task = self.progress.add_task(name, total=steps, completed=first, speed="", state="")
            self.progress.start()

    def step(self, *, epoch: int, images: int, loss: float, top1: float) -> None:
        if self.progress is None or self.task is None:
            return
        speed = self.progress.tasks[0].speed
        self.progress.update(
            self.task,
            advance=1,
            description=f"{self.name} epoch {epoch + 1}/{self.epochs}",
            speed=f"{speed * images:,.0f} images/s" if speed else "",
            state=f"loss {loss:.3f} {self.measure.share} {top1:.1f}%",
        )

    def epoch(self, record: dict[str, Any]) -> None:
        from asqcli.train.adapter_range import span

        text = f"{record['phase']} epoch {record['epoch']}/{self.epochs}: loss {record['train_loss']:.4f}, "
        text += f"{self.measure.share} {record['train_top1']:.2f}% in training, "
        text += f"{percent(record.get('top1'))} in evaluation, "
        if "beta" in record:
            low, high = span(record["beta"])
            text += f"beta {low:.2f} to {high:.2f}, "
        self.console.print(f"{text}{record['seconds']:.0f} s", markup=False)
        if record["epoch"] == self.epochs:
            self.close()

    def close(self) -> None:
        """Take the live bar away."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
