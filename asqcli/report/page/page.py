"""The whole page, from page.html."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from asqcli import __version__
from asqcli.report.draw.pictures import Drawing
from asqcli.report.page.html import Markup, element, picture, text
from asqcli.report.page.studies import study_tables
from asqcli.report.page.summary import layers_of, notes_of, runs_side_by_side
from asqcli.report.study import Study
from asqcli.report.subject import RunReport

Drawn = tuple[Drawing, bytes]  # a picture, and the content of its file


def make_page(
    runs: Sequence[RunReport],
    studies: Sequence[Study],
    *,
    pictures: Sequence[Drawn],
    pictures_of_studies: Sequence[Drawn],
    command: Sequence[str],
) -> str:
    """Return the page as text.

    Args:
        pictures: of the runs, in their order.
        pictures_of_studies: one for each study.
        command: that makes it, for the record.
    """
    names = [*(run.label for run in runs), *(study.document.study for study in studies)]
    title = f"asq report: {', '.join(names)}"
    made = f"Made by asq {__version__}: "
    parts: list[str] = [element("h1", title), element("p", made, element("code", shlex.join(command)), class_="note")]
    if runs:
        parts += [element("h2", "Runs"), runs_side_by_side(runs), element("p", _about_images(runs), class_="note")]
    if notes := "".join(map(notes_of, runs)):
        parts += [element("h2", "Warnings and notes"), notes]
    for study, drawn in zip(studies, pictures_of_studies, strict=True):
        parts += [_section(drawn), study_tables(study)]
    parts += map(_section, pictures)
    for run in runs:
        if run.findings.layers:
            parts += [element("h2", f"Layers of {run.label}"), layers_of(run)]
    template = Template(files("asqcli.report.page").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(title=text(title), body="\n".join(parts))


def _section(drawn: Drawn) -> Markup:
    drawing, content = drawn
    caption = element("figcaption", drawing.caption)
    return Markup(element("h2", drawing.title) + element("figure", picture(content, drawing.title), caption))


def _about_images(runs: Sequence[RunReport]) -> str:
    measured = [run for run in runs if run.findings.images]
    if not measured:
        return "No network was measured on images."
    what = dict.fromkeys(f"{run.findings.images:,} of {run.findings.measured_on}" for run in measured)
    return f"Errors, β and activations below were measured for this report, on {'; '.join(what)}, evenly spread."
