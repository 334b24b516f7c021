"""`asq recipe`: list, show and validate recipes, and table the keys that they are made of."""

from __future__ import annotations

from typing import Annotated

import typer

from asqcli.cli.options import DebugOption

app = typer.Typer(
    help="List, show and validate recipes; table their keys.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_recipes(_debug: DebugOption = False) -> None:
    """Table the recipes and studies that come with asq."""
    from rich.table import Table

    from asqcli.cli.console import print_table, stdout
    from asqcli.recipe.shipped import header, shipped_recipes, shipped_studies

    for title, files in (
        ("Recipes: `asq quantize --recipe NAME`", shipped_recipes()),
        ("Studies: `asq study NAME`", shipped_studies()),
    ):
        table = Table()
        table.add_column("name", no_wrap=True)
        table.add_column("what it does")
        table.add_column("takes")
        for name, path in files.items():
            what, *details = header(path)
            takes = next(line for line in details if line.startswith("Takes: "))
            table.add_row(name, what, takes.removeprefix("Takes: "))
        print_table(stdout(), title, table)


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME")], _debug: DebugOption = False) -> None:
    """Print a recipe or a study, to read or to start one's own from."""
    from asqcli.errors import InputError
    from asqcli.recipe.shipped import find_shipped

    path = find_shipped(name)
    try:
        typer.echo(path.read_text(encoding="utf-8"), nl=False)
    except UnicodeDecodeError as error:
        raise InputError(f"recipe `{path}` cannot be read: it is not text") from error


@app.command()
def validate(file: Annotated[str, typer.Argument(metavar="FILE")], _debug: DebugOption = False) -> None:
    """Check a recipe's keys, values and model: every mistake is told.

    Factories, layer patterns and data are looked at by `asq quantize --dry-run`.
    """
    from asqcli.models.registry import require_known
    from asqcli.recipe.resolve import Request, resolve

    model = resolve(Request(None, file, None, None, {}, [])).recipe.model
    require_known(model)
    typer.echo(f"{file}: a valid recipe for {model}")


@app.command("keys")
def table_keys(
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    _debug: DebugOption = False,
) -> None:
    """Table every key of a recipe: its values, default and meaning."""
    from rich.table import Table

    from asqcli.cli.console import print_table, stdout
    from asqcli.recipe.keys import REQUIRED, markdown, recipe_keys

    keys = recipe_keys()
    if as_markdown:
        typer.echo(markdown(keys), nl=False)
        return
    table = Table(show_lines=True)
    table.add_column("key", no_wrap=True)
    table.add_column("values, default, meaning", overflow="fold")
    for key in keys:
        default = key.default if key.default == REQUIRED else f"default: {key.default}"
        table.add_row(key.path, f"{key.values}; {default}\n{key.meaning}".replace("`", ""))
    print_table(stdout(), "Keys of a recipe; default -: depends on the data and the network", table)
