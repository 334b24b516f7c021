"""The files of a run.

recipe.given.yaml  recipe.yaml    as given, and as resolved with every default
environment.json                  versions, device, processes and their threads, the command
metrics.jsonl                     one line per epoch
checkpoints/last                  what `--resume` and `asq eval` need; `checkpoints/best` where there is a validation
split, `checkpoints/float` where the float network teaches, `checkpoints/teacher` where another one does
result.json                       written last: present means finished
.lock                             there while a process trains
NAME.asq  NAME.onnx               what `asq export` writes without `--out`; NAME is the folder's
report.html  report_files/*.png   what `asq report` writes without `--out`
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from asqcli.errors import InputError, UsageError, quoted
from asqcli.files import PART, check_readable, machine_errors, what_is_wrong, write_atomically
from asqcli.pictures import is_own_png
from asqcli.recipe.load import read_recipe
from asqcli.recipe.schema import Recipe
from asqcli.run.sole_writer import is_held, sole_writer

RESULT, METRICS, RECIPE, GIVEN, ENVIRONMENT = (
    "result.json",
    "metrics.jsonl",
    "recipe.yaml",
    "recipe.given.yaml",
    "environment.json",
)
CHECKPOINTS = "checkpoints"
REPORT, REPORT_FILES = "report.html", "report_files"
LAST, BEST, FLOAT_TEACHER, TEACHER = "last", "best", "float", "teacher"
LOCK = ".lock"
EXPORT_SUFFIXES = (".asq", ".onnx")
SAFETENSORS_PART = ".tmp"  # begins the name of a file that safetensors is writing


class _Environment(BaseModel):
    """What is read again of `environment.json`."""

    model_config = ConfigDict(strict=True)

    processes: Annotated[int, Field(ge=1)] = 1  # earlier runs had one, and said nothing of it
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None


class _Epoch(BaseModel):
    """What is read again of a line of `metrics.jsonl`, besides whatever else stands there."""

    model_config = ConfigDict(strict=True, extra="allow")

    phase: str
    epoch: Annotated[int, Field(ge=1)]
    train_loss: float
    train_top1: float
    top1: float | None = None
    loss: float | None = None
    beta: dict[str, tuple[float, float]] = {}


class _Result(BaseModel):
    """What is read again of `result.json`, besides whatever else stands there."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str
    scheme: str
    weight_bits: int | str
    activation_bits: int | str
    measured_on: str
    float_top1: float
    calibrated_top1: float | None
    top1: float
    top5: float
    seed: int
    run: str


class RunFolder:
    """A run's folder, and the only code that knows its file names.

    Args:
        writable: False where another process writes it: then nothing is written, and nobody needs to ask.
    """

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        self.path, self.writable = path, writable
        self.seen: object = None  # what `look` saw

    @classmethod
    def create(cls, out: str | None, name: str, *, force: bool) -> RunFolder:
        """Make a fresh folder: `out`, or `runs/name`, numbered when that is taken and not to be replaced.

        Raises:
            UsageError: `out` is there already and `force` is not given, it holds what no run wrote, another process is
                training it, or its name is not UTF-8.
            MachineError: it cannot be written.
        """
        path = cls.place(out, name)
        _require_utf8(path)
        if not out and not force:
            return cls(_make_numbered(path))
        with machine_errors(path):
            if path.is_dir() and not any(path.iterdir()):
                return cls(path)
            if path.exists() and force:
                _refuse_to_delete(path)
                with sole_writer(path / LOCK):
                    shutil.rmtree(path)
            try:
                path.mkdir(parents=True)
            except FileExistsError as error:
                raise UsageError(
                    f"`{path}` is there already", "choose another `--out`, or replace the run with --force"
                ) from error
        return cls(path)

    @staticmethod
    def place(out: str | None, name: str) -> Path:
        """Return where a run belongs: `out`, or `runs/name`."""
        return Path(out) if out else Path("runs") / name

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the folder of a run that was made before.

        Raises:
            InputError: it is not one.
        """
        folder = cls(path)
        if not folder.started:
            raise InputError(f"`{path}` is not the folder of a run: it has no {RECIPE}")
        return folder

    @classmethod
    def around(cls, checkpoint: Path) -> RunFolder | None:
        """Return the folder of the run whose last checkpoint a file is, or None."""
        folder = cls(checkpoint.parent.parent)
        return folder if checkpoint == folder.checkpoint(LAST) and folder.started else None

    @property
    def started(self) -> bool:
        """Has a run begun here?"""
        return (self.path / RECIPE).is_file()

    @contextmanager
    def held(self) -> Generator[None]:
        """Keep other processes from training this run meanwhile.

        Raises:
            UsageError: one is at it.
        """
        if not self.writable:
            yield
            return
        with sole_writer(self.path / LOCK):
            yield

    def look(self) -> RunFolder:
        """Remember how the run stands, for `require_as_seen`; return this folder."""
        self.seen = self._state()
        return self

    def require_as_seen(self) -> None:
        """Refuse to write over what another process has left behind since `look`.

        Raises:
            UsageError: it has trained the run on, or to its end.
        """
        if self.writable and self.seen is not None and self._state() != self.seen:
            raise UsageError(f"another process has just trained `{self.path}`", "start again, from where it is now")

    def _state(self) -> tuple[object, ...]:
        last, result = self.checkpoint(LAST), self.path / RESULT
        return tuple((s.st_ino, s.st_mtime_ns) if p.is_file() and (s := p.stat()) else None for p in (last, result))

    @property
    def trained_elsewhere(self) -> bool:
        """Is another process training this run?"""
        return is_held(self.path / LOCK)

    @property
    def finished(self) -> bool:
        """Has the run come to its end?"""
        return (self.path / RESULT).is_file()

    def checkpoint(self, name: str) -> Path:
        """Return the file of a checkpoint, `LAST`, `BEST` or `TEACHER`, or of the `FLOAT_TEACHER`."""
        return self.path / CHECKPOINTS / name

    def write_recipe(self, resolved: dict[str, Any], given: str | None) -> None:
        """Store the resolved recipe, and the text of the file that was given."""
        if not self.writable:
            return
        text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)
        write_atomically(self.path / RECIPE, text.encode())
        if given is not None:
            write_atomically(self.path / GIVEN, given.encode())

    def recipe(self) -> Recipe:
        """Return the resolved recipe.

        Raises:
            InputError: somebody changed it to something that is none.
        """
        try:
            return Recipe.model_validate(read_recipe(self.path / RECIPE))
        except (ValidationError, UsageError) as error:
            raise InputError(f"`{self.path / RECIPE}` is not a resolved recipe any more") from error

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Store what the run ran on."""
        if self.writable:
            write_atomically(self.path / ENVIRONMENT, _json(environment))

    def threads(self, processes: int = 1) -> int | None:
        """Return how many threads each process of the run had, None where that is not known.

        Args:
            processes: that go on with it; where they were others in number, their threads say nothing.
        Raises:
            InputError: `environment.json` is corrupt.
        """
        environment = self.environment()
        return environment.get("threads") if environment.get("processes", 1) == processes else None

    def environment(self) -> dict[str, Any]:
        """Return what the run ran on, nothing where that was not kept.

        Raises:
            InputError: `environment.json` is corrupt.
        """
        return self._read_json(ENVIRONMENT, _Environment) or {}

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of the metrics, one for each epoch; one that a kill cut off is passed over.

        Raises:
            InputError: a line is not of a run.
        """
        path = self.path / METRICS
        if not path.is_file():
            return []
        check_readable(path)
        whole = path.read_bytes().rpartition(b"\n")[0].splitlines()
        for number, line in enumerate(whole, 1):
            try:
                _Epoch.model_validate_json(line)
            except ValidationError as error:
                raise InputError(f"line {number} of `{path}` is corrupt: {what_is_wrong(error)}") from error
        return [json.loads(line) for line in whole]

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to the metrics."""
        if not self.writable:
            return
        with machine_errors(self.path / METRICS), (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def cut_metrics(self, lines: int) -> None:
        """Keep the first `lines` lines: those that a checkpoint knows of."""
        path = self.path / METRICS
        if self.writable and path.is_file():
            kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
            write_atomically(path, "".join(kept).encode())

    def write_result(self, result: dict[str, Any]) -> None:
        """Store the result, which marks the run as finished."""
        if self.writable:
            write_atomically(self.path / RESULT, _json(result))

    def result(self) -> dict[str, Any] | None:
        """Return the result of a finished run, or None.

        Raises:
            InputError: `result.json` is corrupt.
        """
        return self._read_json(RESULT, _Result)

    def _read_json(self, name: str, model: type[BaseModel]) -> dict[str, Any] | None:
        """Return the content of a file, checked against `model`, or None where there is no file."""
        path = self.path / name
        if not path.is_file():
            return None
        check_readable(path)
        content = path.read_bytes()
        try:
            model.model_validate_json(content)
        except ValidationError as error:
            raise InputError(
                f"`{path}` is corrupt: {what_is_wrong(error)}", "remove it and `--resume` the run"
            ) from error
        return json.loads(content)


def _require_utf8(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(f"the name {quoted(path)} is not UTF-8, as JSON must be", "choose another `--out`") from None


def _make_numbered(path: Path) -> Path:
    """Make the folder `path`, or `path-2`, `path-3` and so on where that is taken; return it.

    Whoever makes a folder owns it: between looking for a free name and taking it another run could do the same.
    """
    folder = path
    with machine_errors(path):
        path.parent.mkdir(exist_ok=True)
        for number in count(2):
            with suppress(FileExistsError):
                folder.mkdir()
                break
            folder = path.with_name(f"{path.name}-{number}")
    return folder


def _refuse_to_delete(path: Path) -> None:
    """Let `--force` delete nothing but a run: a recipe alone may well be the user's own, in the folder of a project.

    Raises:
        UsageError: the folder is not a run's, or holds something that neither a run nor an export writes there.
    """
    if not all((path / name).is_file() for name in (RECIPE, ENVIRONMENT)):
        raise UsageError(f"`{path}` is not the folder of a run, and --force replaces nothing else")
    files = {RESULT, METRICS, RECIPE, GIVEN, ENVIRONMENT, LOCK, REPORT}
    files |= {path.resolve().name + suffix for suffix in EXPORT_SUFFIXES}
    pictures = {entry.name for entry in (path / REPORT_FILES).glob("*.png") if is_own_png(entry)}
    checkpoints = {LAST, BEST, FLOAT_TEACHER, TEACHER}
    folders = {path: files, path / CHECKPOINTS: checkpoints, path / REPORT_FILES: pictures}
    for folder, known in folders.items():
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            if entry in folders and entry.is_dir():
                continue
            # A run that was killed leaves what it was about to write as a `.part`, or under a name of safetensors'.
            unfinished = folder.name == CHECKPOINTS and entry.name.startswith(SAFETENSORS_PART)
            if not (entry.name.removesuffix(PART) in known or unfinished) or entry.is_dir():
                raise UsageError(
                    f"`{entry}` is not of a run, and --force replaces nothing else",
                    "move it to another place, or choose another `--out`",
                )


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
