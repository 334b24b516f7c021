"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
DataOption = Annotated[
    str | None, typer.Option("--data", metavar="NAME|DIR", help="digits, cifar10, cifar100, or an image folder.")
]
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", metavar="FILE|RUN|official|factory|none", help="Pretrained float weights to start from."),
]
ClassesOption = Annotated[
    str | None, typer.Option("--classes", metavar="FILE", help="Names of the network's classes, one a line.")
]
BatchSizeOption = Annotated[int | None, typer.Option("--batch-size", min=1, max=2**31 - 1, help="Images per batch.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="D", help="cpu or cuda. Default: cuda where there is one.")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, max=256, help="CPU threads, of each process. Default: all cores.")
]
NprocOption = Annotated[
    int | None,
    typer.Option("--nproc", metavar="N", min=1, max=1024, help="Train in N processes on this machine. Default: 1."),
]
FactoryOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODULE:FACTORY", help="Needed where the run was trained with a factory of yours."),
]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", metavar="NAME|FILE", help="A recipe: see `asq recipe list`.")
]
OverridesOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override any key of the recipe.")
]
