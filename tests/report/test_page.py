"""The page: everything of strangers is escaped, and nothing on it needs a network."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from asqcli.errors import InputError
from asqcli.report.draw.pictures import Drawing
from asqcli.report.page.html import Markup, element, number, picture, table
from asqcli.report.page.page import make_page
from asqcli.report.study import Study, StudyDocument, is_study, read_study
from tests.report.conftest import NAN, made_up_run

SCRIPT = "<script>alert('x')</script>"
VOID = {"meta", "img"}


class Outline(HTMLParser):
    """Elements and texts of a page; fails where they are not nested."""

    def __init__(self, page):
        super().__init__()
        self.open, self.names, self.attributes, self.texts = [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def page_of(runs, studies=(), pictures=(), pictures_of_studies=()):
    command = ("asq", "report", f"a {SCRIPT}")
    return make_page(runs, studies, pictures=pictures, pictures_of_studies=pictures_of_studies, command=command)


def hostile_run():
    run = made_up_run(0, SCRIPT, 3, prefix=f'"{SCRIPT}', folder=f"runs/{SCRIPT}")
    run.subject.result["warnings"] = [f"{SCRIPT} & more"]
    run.subject.environment["command"] = ["asq", "quantize", f"--data={SCRIPT}"]
    run.findings.notes.append(f"{SCRIPT}\x1b[2J")
    run.findings.measured_on = f"images of `{SCRIPT}`"
    return run


def test_names_of_strangers_are_texts():
    drawing = Drawing("curves", f"{SCRIPT}", f"caption {SCRIPT}", None)
    outline = Outline(page_of([hostile_run()], pictures=[(drawing, b"png")]))
    assert "script" not in outline.names
    assert sum(SCRIPT in text for text in outline.texts) > 10
    assert not any("\x1b" in text for text in outline.texts)


def test_nothing_is_loaded_from_elsewhere():
    drawing = Drawing("curves", "t", "c", None)
    outline = Outline(page_of([made_up_run()], pictures=[(drawing, b"png")]))
    sources = [value for key, value in outline.attributes if key in ("src", "href", "srcset", "data", "action")]
    assert sources == ["data:image/png;base64,cG5n"]
    assert ("default-src 'none'" in dict(outline.attributes)["content"]) or any(
        "default-src 'none'" in (value or "") for _, value in outline.attributes
    )
    page = page_of([made_up_run()])
    assert not re.search(r"url\(|@import|https?:", page)


def test_what_a_run_is_and_came_to():
    texts = Outline(page_of([made_up_run()])).texts
    for expected in ("83.00%", "82.00%", "post 3 bits (7/5)", "asq 3 bits", "asq quantize", "warning: a warning",
                     "0.1000 (0.0500 to 0.2000)", "1.000 (0.500 to 2.000)", "1,040", "8.2"):  # fmt: skip
        assert expected in texts, expected


def test_a_run_that_has_nothing_yet():
    run = made_up_run(layers=0)
    object.__setattr__(run.subject, "result", None)
    run.subject.epochs.clear()
    run.findings.images = 0
    run.findings.exported = None
    texts = Outline(page_of([run])).texts
    assert "not finished, no epoch done" in texts and "No network was measured on images." in texts


def test_figures_that_are_no_numbers_are_dashes():
    run = made_up_run(layers=1)
    run.subject.result.update(loss=NAN, top1=float("inf"))
    page = page_of([run])
    assert "nan" not in Outline(page).texts and "inf" not in page.lower().replace("information", "")
    assert number(NAN) == "–"


def test_a_study_has_its_tables(tmp_path):
    rows = [
        {"row": SCRIPT, "scheme": "post", "bits": 3, "epochs": 5, "mean": 86.5, "spread": 0.1, "to_float": -2.2,
         "cells": [{"seed": 0, "run": "a", "status": "done", "top1": 86.5, "float_top1": 88.7},
                   {"seed": 1, "run": "b", "status": "failed", "reason": "it diverged"}]},
        {"row": "lsq", "scheme": "lsq", "bits": "3/4", "cells": []},
    ]  # fmt: skip
    comparisons = [{"row": SCRIPT, "against": "lsq", "bits": 3, "pairs": 3, "wins": 2, "mean_difference": 0.25}]
    content = {"study": "s", "rows": rows, "comparisons": comparisons, "added": "later"}
    study = Study(tmp_path, StudyDocument.model_validate(content))
    outline = Outline(page_of([], [study], pictures_of_studies=[(Drawing("s", "t", "c", None), b"")]))
    assert {"86.50", "0.10", "-2.20", "+0.25", "failed", f"{SCRIPT}, seed 1 failed: it diverged"} <= set(outline.texts)


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "Invalid JSON"), ('{"study": "s"}', "`rows`"), ('{"study": "s", "rows": [{"row": 1}]}', "`rows.0.row`")],
)
def test_a_study_that_is_none(tmp_path, content, problem):
    assert not is_study(tmp_path)
    (tmp_path / "study.json").write_text(content)
    assert is_study(tmp_path)
    with pytest.raises(InputError, match=problem):
        read_study(tmp_path)


def test_elements():
    assert element("a", "1 < 2", Markup("<b></b>"), title='"') == '<a title="&quot;">1 &lt; 2<b></b></a>'
    assert table(["a"], [["<"]], numbers_from=0).count("&lt;") == 1
    assert picture(b"x", '"><script>').count("<") == 1
