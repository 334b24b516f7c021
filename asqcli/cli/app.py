"""Joins the commands; the one place where an exception becomes text and an exit code."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from asqcli.cli import evaluate, export, infer, overhead, quantize, recipes, report, streams, study
from asqcli.errors import AsqError, ExitCode, InputError, UsageError, did_you_mean, first_line, ran_out_of_memory
from asqcli.places import place_in_user_code
from asqcli.processes.failures import told_elsewhere

HELP = "Quantize convolutional networks to 2 to 8 bits: train, measure, and keep what was promised."


class _Command(TyperCommand):
    """A command that may run code of the user's: what that prints goes to stderr."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if any(text == "" or re.fullmatch(r"--[\w-]+=", text) for text in args):  # a path of "" would be this folder
            raise UsageError("an argument or the value of an option is empty", "is a variable of your script not set?")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with streams.prints_to_stderr():
            return super().invoke(ctx)


app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.command("quantize", cls=_Command)(quantize.quantize)
app.command("eval", cls=_Command)(evaluate.evaluate)
app.command("overhead", cls=_Command)(overhead.overhead)
app.command("export", cls=_Command)(export.export)
app.command("infer", cls=_Command)(infer.infer)
app.command("study", cls=_Command)(study.study)
app.command("report", cls=_Command)(report.report)
app.add_typer(recipes.app, name="recipe")

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
UNREADABLE = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO)
DEBUG_HINT = "run again with --debug to see where"

# The parser's own mistakes. Typer from 0.29 on brings a click of its own, and exports only some subclasses.
ParserError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


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


def main() -> None:
    """Run the command line and exit with its code."""
    streams.take_over()
    code = run()
    sys.stdout = sys.stderr  # for what others print at the interpreter's end
    sys.exit(code)


def run() -> int:
    """Run the command line; return the exit code."""
    try:
        _require_current_folder()
        code = app(standalone_mode=False)
        sys.stdout.flush()  # a failure to write is told here, not by the interpreter at its end
    except AsqError as error:
        return _fail(error.exit_code, error.message, error.hint, has_results=error.has_results)
    except ParserError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(error.ctx.get_help() + "\n")
            return ExitCode.USAGE
        return _fail(ExitCode.USAGE, _parser_message(error), _option_hint(error))
    except (KeyboardInterrupt, typer.Abort):
        return _fail(ExitCode.INTERRUPTED, "interrupted", None)
    except (Exception, SystemExit) as error:
        return _fail_unexpectedly(error)
    return code if isinstance(code, int) else ExitCode.OK


def _require_current_folder() -> None:
    """Without one, the libraries under PyTorch end the process in their own words."""
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(f"the current folder is gone: {error.strerror}", "change to one that exists") from error


def _fail_unexpectedly(error: BaseException) -> int:
    """Tell whose fault an error is that no part of asq foresaw, and return its exit code."""
    reason = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        streams.silence(sys.stdout)
        return _fail(ExitCode.MACHINE, f"the results cannot be written: {error.strerror}", None)
    if ran_out_of_memory(error):
        return _fail(ExitCode.MACHINE, "out of memory", "try a smaller `--batch-size` or image")
    if (place := place_in_user_code(error)) is not None:
        return _fail(ExitCode.UNSUPPORTED, f"the code of the network raised {reason} at {place}", DEBUG_HINT)
    if isinstance(error, OSError) and error.errno is not None:
        what = f"`{error.filename}`: {error.strerror}" if error.filename is not None else error.strerror
        code = ExitCode.INPUT if error.errno in UNREADABLE else ExitCode.MACHINE
        return _fail(code, f"the operating system refuses {what}", None)
    hint = "run again with --debug and report what it prints"
    return _fail(ExitCode.INTERNAL, f"a fault of asq itself: {reason}", hint)


def _fail(code: int, message: str, hint: str | None, *, has_results: bool = False) -> int:
    """Tell of a failure on stderr, and on stdout too where JSON was asked for; return its exit code.

    Of several processes one tells, and all have its exit code.
    """
    if sys.argv[1:2] == ["quantize"] and (told := told_elsewhere(code)) is not None:
        return told
    if "--debug" in sys.argv:
        traceback.print_exc()
    if "--json" in sys.argv and not has_results:
        name = ExitCode(code).name.lower()
        try:
            print(json.dumps({"schema": 1, "error": {"code": name, "message": message, "hint": hint}}, indent=2))
            sys.stdout.flush()
        except OSError:
            streams.silence(sys.stdout)
    sys.stderr.write(f"error: {message}\n" + (f"hint: {hint}\n" if hint else ""))
    return int(code)


def _parser_message(error: Any) -> str:
    """Return the parser's message in our style, without the suggestions that our hint makes."""
    text = re.sub(r" ?\((Possible options|Did you mean).*", "", error.format_message()).rstrip(".")
    return text[:1].lower() + text[1:]


def _option_hint(error: Any) -> str | None:
    """Suggest the nearest option or command; the parser's own suggestions differ between its versions."""
    context = getattr(error, "ctx", None)
    wrong = getattr(error, "option_name", None)
    if wrong is None or context is None:
        return f"`{context.command_path} --help` lists what there is" if context else None
    known = [name for parameter in context.command.params for name in parameter.opts]
    return did_you_mean(wrong, known) or f"`{context.command_path} --help` lists the options"
