"""Joins the commands; the one place where an exception becomes text and an exit code."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import traceback
from typing import Annotated, TextIO

import typer

from asqcli.cli import evaluate, export, infer, overhead, quantize, recipes
from asqcli.errors import AsqError, ExitCode, did_you_mean, ran_out_of_memory

HELP = "Quantize convolutional networks to 2 to 8 bits: train, measure, and keep what was promised."

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.command("quantize")(quantize.quantize)
app.command("eval")(evaluate.evaluate)
app.command("overhead")(overhead.overhead)
app.command("export")(export.export)
app.command("infer")(infer.infer)
app.add_typer(recipes.app, name="recipe")

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

# The parser's own mistakes; typer exports only one of the subclasses.
ParserError = typer.BadParameter.__mro__[2]


def _version(wanted: bool) -> None:
    if wanted:
        from asqcli import __version__

        typer.echo(f"asq {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


class _Stream:
    """stdout or stderr, which fall silent on the errors in `ignored`, so that the command goes on to its exit code."""

    def __init__(self, stream: TextIO | None, ignored: type[OSError]) -> None:
        self._stream = stream or open(os.devnull, "w")  # None where the shell closed it
        self._ignored = ignored

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except self._ignored:
            _silence(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except self._ignored:
            _silence(self._stream)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def _silence(stream: TextIO) -> None:
    """Let what is still to be written vanish; the interpreter would try once more at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main() -> None:
    """Run the command line and exit with its code."""
    sys.stdout = _Stream(sys.stdout, BrokenPipeError)  # its reader has read enough
    sys.stderr = _Stream(sys.stderr, OSError)  # nobody can be told
    sys.exit(run())


def run() -> int:
    """Run the command line; return the exit code."""
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()  # what cannot be written is told here, not by the interpreter at its end
    except AsqError as error:
        return _fail(error.exit_code, error.message, error.hint)
    except ParserError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(error.ctx.get_help() + "\n")
            return ExitCode.USAGE
        return _fail(ExitCode.USAGE, _parser_message(error), _option_hint(error))
    except (KeyboardInterrupt, typer.Abort):
        return _fail(ExitCode.INTERRUPTED, "interrupted", None)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            _silence(sys.stdout)
            return _fail(ExitCode.MACHINE, f"the results cannot be written: {error.strerror}", None)
        if ran_out_of_memory(error):
            return _fail(ExitCode.MACHINE, "out of memory", "try a smaller `--batch-size` or image")
        return _fail(
            ExitCode.INTERNAL,
            f"a fault of asq itself: {type(error).__name__}: {error}",
            "run again with --debug and report what it prints",
        )
    return code if isinstance(code, int) else ExitCode.OK


def _fail(code: int, message: str, hint: str | None) -> int:
    """Tell of a failure on stderr, and on stdout too where JSON was asked for; return its exit code."""
    if "--debug" in sys.argv:
        traceback.print_exc()
    if "--json" in sys.argv:
        name = ExitCode(code).name.lower()
        try:
            print(json.dumps({"schema": 1, "error": {"code": name, "message": message, "hint": hint}}, indent=2))
            sys.stdout.flush()
        except OSError:
            _silence(sys.stdout)
    sys.stderr.write(f"error: {message}\n" + (f"hint: {hint}\n" if hint else ""))
    return int(code)


def _parser_message(error) -> str:
    """Return the parser's message in our style, without the suggestions that our hint makes."""
    text = re.sub(r" ?\((Possible options|Did you mean).*", "", error.format_message()).rstrip(".")
    return text[:1].lower() + text[1:]


def _option_hint(error) -> str | None:
    """Suggest the nearest option or command; the parser's own suggestions differ between its versions."""
    context = getattr(error, "ctx", None)
    wrong = getattr(error, "option_name", None)
    if wrong is None or context is None:
        return f"`{context.command_path} --help` lists what there is" if context else None
    known = [name for parameter in context.command.params for name in parameter.opts]
    return did_you_mean(wrong, known) or f"`{context.command_path} --help` lists the options"
