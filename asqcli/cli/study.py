"""`asq study`: train rows, bits and seeds as ordinary runs, and table what they show."""

from __future__ import annotations

import shlex
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asqcli.cli.options import DataOption, DebugOption, JsonOption, WeightsOption
from asqcli.errors import CellsFailed, ExitCode, Interruption, UsageError
from asqcli.machine import usable_processors

if TYPE_CHECKING:
    from asqcli.study.cells import Cell, Study
    from asqcli.study.estimate import Estimator
    from asqcli.study.processes import End, Job
    from asqcli.study.work import Work

RUNS = Path("runs")
FAILURES = set(ExitCode) - {ExitCode.OK}
ELSEWHERE = "left to another process, which trains it"


def study(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A study's YAML file, or the name of one of asq's own.")],
    data: DataOption = None,
    weights: WeightsOption = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe's key in all cells.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The folder of all runs. Default: runs/NAME.")
    ] = None,
    cell: Annotated[
        str | None, typer.Option("--cell", metavar="PATTERN", help="Only cells whose names match, such as 'lsq-*'.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", min=1, max=256, help="Cells to train at once.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, max=256, help="CPU threads of each cell. Default: all cores, divided."),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try again the cells that failed or diverged.")] = False,
    commands: Annotated[
        bool, typer.Option("--commands", help="Print a shell line for each cell that is not done, and do nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the cells and how long they will take, train nothing.")
    ] = False,
    json_: JsonOption = False,
    _debug: DebugOption = False,
) -> None:
    """Train every cell of a study as an ordinary run, and table mean, spread and paired comparisons.

    Started again it goes on: cells that are done stay, those that were interrupted are resumed.
    """
    from asqcli.cli.console import note
    from asqcli.recipe.shipped import find_study
    from asqcli.study.expand import expand
    from asqcli.study.load import read_study
    from asqcli.study.work import Work

    for flag, beside, both in (
        ("--dry-run", "--commands", dry_run and commands),
        ("--json", "--commands", json_ and commands),
    ):
        if both:
            raise UsageError(f"`{flag}` makes no sense beside `{beside}`")
    path = find_study(file)
    asked = expand(read_study(path), path, data=data, weights=weights, overrides=overrides or [])
    chosen = _chosen(asked, cell)
    if not commands:  # which another machine may run
        _require_models(chosen)
    if threads is None and jobs > 1 and not commands:
        threads = max(1, usable_processors() // jobs)
    work = Work(asked, out or RUNS / path.stem, retry={c.name for c in chosen} if retry else ())
    todo = [c for c in work.waiting() if c in chosen]
    for elsewhere in work.running():
        note(f"{elsewhere.name}: {ELSEWHERE}")
    if commands:
        from asqcli.cli.streams import results

        results().writelines(f"{shlex.join(['asq', *work.arguments(c, threads)])}\n" for c in todo)
        return
    if dry_run:
        _show_plan(work, chosen, todo, jobs, threads, json_)
        return
    _train(work, todo, jobs, threads)
    _show(work, json_)
    _tell_of_failures(work, chosen)


def _chosen(study: Study, pattern: str | None) -> list[Cell]:
    cells = study.cells
    chosen = [cell for cell in cells if pattern is None or fnmatch(cell.name, pattern)]
    if not chosen:
        names = f"{cells[0].name} to {cells[-1].name}"
        raise UsageError(f"`--cell {pattern}` matches no cell", f"the cells are {names}; `--dry-run` lists them")
    return chosen


def _require_models(cells: list[Cell]) -> None:
    """Refuse unknown networks and data at once, not cell by cell."""
    from asqcli.data.layout import data_kind
    from asqcli.models.names import made_for_small_images

    for name in dict.fromkeys(cell.recipe.data.name for cell in cells):
        data_kind(name)
    for name in dict.fromkeys(cell.recipe.model for cell in cells):
        if not made_for_small_images(name):
            from asqcli.models.registry import require_known

            require_known(name)


def _train(work: Work, cells: list[Cell], jobs: int, threads: int | None) -> None:
    """Train cells, and tell of each."""
    from asqcli.cli.console import note
    from asqcli.study.estimate import Estimator
    from asqcli.study.lock import locked
    from asqcli.study.processes import CellProcesses

    work.prepare()
    if not cells:
        with locked(work.out):
            work.write()
        return
    by_name, left, estimator = {cell.name: cell for cell in cells}, list(cells), Estimator(work)

    def started(job: Job) -> None:
        work.started(job.name)
        number = f"[{len(cells) - len(left) + 1} of {len(cells)}] " if jobs == 1 else ""
        note(f"{number}{job.name}: {'goes on' if '--resume' in job.arguments else 'started'}, log in {job.log}")

    def ended(job: Job, end: End) -> None:
        cell = by_name[job.name]
        outcome = work.ended(cell, end)
        left.remove(cell)
        note(f"{job.name}: {_in_words(outcome, end)}{_time_left(estimator, cell, left, jobs)}")

    with locked(work.out) as lock, CellProcesses(jobs, lock) as processes:
        processes.run((work.job(cell, threads) for cell in cells), started=started, ended=ended)
    if processes.received is not None:
        done = sum(outcome.status == "done" for outcome in work.outcomes.values())
        again = shlex.join(["asq", *sys.argv[1:]])
        raise Interruption(
            processes.received,
            f"stopped; {done} of {len(work.outcomes)} cells are done, the work on others is saved",
            f"go on with `{again}`",
        )


def _in_words(outcome: Any, end: End) -> str:
    if outcome.status == "running":
        return ELSEWHERE
    if outcome.status == "done":
        beside = "" if outcome.float_top1 is None else f" (float {outcome.float_top1:.2f}%)"
        return f"{outcome.top1:.2f}%{beside}"
    return "stopped" if end.stopped else f"failed: {outcome.reason}"


def _time_left(estimator: Estimator, cell: Cell, left: list[Cell], jobs: int) -> str:
    """Return how long the cells that are left will take, where others like them are done."""
    from asqcli.study.estimate import duration

    if estimator.work.outcomes[cell.name].status == "done":
        estimator.add(cell)
    seconds = estimator.all_seconds(left, jobs)
    return f"; about {duration(seconds)} left" if seconds and left else ""


def _show_plan(work: Work, cells: list[Cell], todo: list[Cell], jobs: int, threads: int | None, json_: bool) -> None:
    from asqcli.cli.console import note, print_json
    from asqcli.cli.tables.study import print_plan
    from asqcli.study.plan import plan_document

    document = plan_document(work, cells, todo, jobs=jobs, threads=threads, tell=note)
    if json_:
        print_json(document)
    else:
        print_plan(document)
    if todo and len(document["failures"]) and all(cell["seconds"] is None for cell in document["cells"]):
        failure = document["failures"][0]
        code = failure["exit_code"] if failure["exit_code"] in FAILURES else ExitCode.MACHINE
        raise CellsFailed(code, f"{failure['run']} could not be trained: {failure['reason']}")


def _show(work: Work, json_: bool) -> None:
    from asqcli.cli.console import note, print_json
    from asqcli.cli.tables.study import print_study
    from asqcli.study.work import CSV, DOCUMENT, MARKDOWN

    if json_:
        print_json(work.document)
    else:
        print_study(work.document)
    note(f"tables: {', '.join(str(work.out / name) for name in (MARKDOWN, CSV, DOCUMENT))}")


def _tell_of_failures(work: Work, cells: list[Cell]) -> None:
    """End with the exit code of the first cell that failed, but for divergence, which is what a study may find."""
    failed = [(cell.name, work.outcomes[cell.name]) for cell in cells if work.outcomes[cell.name].status == "failed"]
    broken = [(name, outcome) for name, outcome in failed if outcome.exit_code != ExitCode.DIVERGED]
    if broken:
        name, outcome = broken[0]
        others = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
        code = outcome.exit_code or 0
        code = code if code in FAILURES else ExitCode.MACHINE  # a signal's number is none
        hint = f"`{work.log(name)}` tells more; mend the cause and try again with --retry"
        raise CellsFailed(code, f"{name} failed{others}: {outcome.reason}", hint)
