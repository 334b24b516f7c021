"""A report from the folders of runs and studies: read, measured, drawn and written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asqcli.errors import InputError, UsageError
from asqcli.pictures import png, require_matplotlib, styled
from asqcli.report.draw.pictures import draw_runs, draw_studies
from asqcli.report.files import Place
from asqcli.report.findings import Findings
from asqcli.report.measure.images import ImageSource
from asqcli.report.measure.run import Measurer
from asqcli.report.page.page import make_page
from asqcli.report.study import Study, is_study, read_study
from asqcli.report.subject import RunReport, Subject, read_subjects

SCHEMA = 1


@dataclass(frozen=True)
class Request:
    """What a report is to be of.

    Attributes:
        folders: of runs and studies.
        out: the page; None for the usual place.
        force: may it replace an earlier one?
        images: to measure on, at most.
        data: in the place of what recipes name, or None.
        layer: pattern of the layer whose input is shown, or None.
        factory: the `module:factory` that the caller names, or None.
        command: for the record.
    """

    folders: list[Path]
    out: Path | None
    force: bool
    images: int
    data: str | None
    layer: str | None
    factory: str | None
    command: Sequence[str]


def make_report(request: Request, tell: Callable[[str], None]) -> dict[str, Any]:
    """Write the page and its pictures; return the document with what they show.

    Args:
        tell: hears what is being done, and what is missing.
    Raises:
        UsageError, InputError, MachineError: a folder is none of a run or study, the page cannot be written, and so on;
            found out before anything is measured.
    """
    require_matplotlib("`asq report`")
    studies, subjects = _read(request)
    place = Place.choose(request.out, request.folders)
    place.require_free(force=request.force)
    runs = _measure(request, subjects, tell)
    with styled():
        pictures, of_studies = (
            [(drawing, png(drawing.figure)) for drawing in drawings]
            for drawings in (draw_runs(runs), draw_studies(studies))
        )
    page = make_page(runs, studies, pictures=pictures, pictures_of_studies=of_studies, command=request.command)
    contents = {drawing.name: content for drawing, content in (*of_studies, *pictures)}
    place.write(page, contents)
    return _plain({
        "schema": SCHEMA,
        "page": str(place.page),
        "pictures": [str(place.picture(name)) for name in contents],
        "runs": [_run(run) for run in runs],
        "studies": [{"folder": str(study.path), **study.document.model_dump()} for study in studies],
    })  # fmt: skip


def _read(request: Request) -> tuple[list[Study], list[Subject]]:
    for path in request.folders:
        if not path.is_dir():
            raise InputError(f"`{path}` is not the folder of a run or a study", "`asq quantize` makes one")
    if len({path.resolve() for path in request.folders}) < len(request.folders):
        raise UsageError("a folder is named twice")
    studies = [read_study(path) for path in request.folders if is_study(path)]
    subjects = read_subjects([path for path in request.folders if not is_study(path)])
    if request.factory is not None and all(subject.recipe.model != request.factory for subject in subjects):
        models = ", ".join(dict.fromkeys(f"`{subject.recipe.model}`" for subject in subjects)) or "no run"
        raise UsageError(f"no run was trained with the model `{request.factory}`, but with {models}")
    return studies, subjects


def _measure(request: Request, subjects: list[Subject], tell: Callable[[str], None]) -> list[RunReport]:
    measurer = Measurer(ImageSource(request.images, request.data, tell), request.layer, request.factory)
    found: dict[str, Findings] = {}
    # Those with adapters first: they choose the images whose activations are shown.
    for subject in sorted(subjects, key=lambda subject: subject.recipe.activations.quantizer != "asq"):
        tell(f"measuring {subject.label}")
        found[subject.label] = measurer.measure(subject)
        for text in found[subject.label].notes:
            tell(f"{subject.label}: {text}")
    return [RunReport(subject, found[subject.label], index) for index, subject in enumerate(subjects)]


def _run(run: RunReport) -> dict[str, Any]:
    subject = run.subject
    return {
        "run": str(subject.folder.path),
        "label": subject.label,
        "finished": subject.result is not None,
        "model": subject.recipe.model,
        "result": subject.result,
        "epochs": subject.epochs,
        **asdict(run.findings),
    }


def _plain(content: Any) -> Any:
    """Return what JSON can hold: null where a number is NaN or infinite."""
    match content:
        case dict():
            return {key: _plain(value) for key, value in content.items()}
        case list() | tuple():
            return [_plain(value) for value in content]
        case float() if not math.isfinite(content):
            return None
        case _:
            return content
