"""`asq report`: one page of runs and studies, with their curves, errors, levels and layers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from asqcli.cli.options import DataOption, DebugOption, FactoryOption, JsonOption, ThreadsOption


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN..", help="Run folders, finished or not; or studies.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PAGE.html", help="Default: report.html in the one folder named, else here."),
    ] = None,
    data: DataOption = None,
    images: Annotated[
        int, typer.Option("--images", metavar="N", min=1, max=100_000, help="Test images to measure networks on.")
    ] = 256,
    layer: Annotated[
        str | None,
        typer.Option("--layer", metavar="PATTERN", help="Whose activations to show. Default: one in the middle."),
    ] = None,
    model: FactoryOption = None,
    threads: ThreadsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier report.")] = False,
    json_: JsonOption = False,
    _debug: DebugOption = False,
) -> None:
    """Write one self-contained HTML page about runs, side by side, and its pictures as PNG beside it.

    With --json, print the figures behind the pictures, too.
    """
    import torch

    from asqcli.cli.console import note, print_facts, print_json
    from asqcli.report.make import Request, make_report

    if threads:
        torch.set_num_threads(threads)
    command = ("asq", *sys.argv[1:])
    document = make_report(Request(runs, out, force, images, data, layer, model, command), note)
    if json_:
        print_json(document)
    else:
        print_facts("Report", _facts(document))


def _facts(document: dict[str, Any]) -> dict[str, str]:
    pictures = document["pictures"]
    facts = {"page": document["page"]}
    if pictures:
        facts["pictures"] = f"{len(pictures)} in {Path(pictures[0]).parent}"
    for run in document["runs"]:
        facts[f"run {run['label']}"] = (
            f"measured on {run['images']:,} images" if run["images"] else "not measured on images"
        )
    for study in document["studies"]:
        facts[f"study {study['study']}"] = f"{len(study['rows'])} rows"
    return facts
