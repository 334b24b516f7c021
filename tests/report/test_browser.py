"""The page in a browser: all pictures are there, nothing fails, nothing is asked of a network."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from asqcli.pictures import png, styled
from asqcli.report.draw.pictures import draw_runs
from asqcli.report.page.page import make_page
from tests.report.browser import PROGRAM, picture_widths, visit
from tests.report.conftest import made_up_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here: on Debian, apt-get install chromium"),
]


def test_a_page_alone(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [made_up_run(0, "<script>alert('x')</script>"), made_up_run(1, "other", adapters=False)]
    with styled():
        pictures = [(drawing, png(drawing.figure)) for drawing in draw_runs(runs)]
    page = tmp_path / "page.html"
    command = ("asq", "report")
    page.write_text(make_page(runs, [], pictures=pictures, pictures_of_studies=[], command=command), encoding="utf-8")
    seen = visit(page, tmp_path)
    assert (seen.console, seen.requests) == ([], [])
    assert seen.dom.count("<img") == len(pictures) > 5
    widths = picture_widths(page, tmp_path)
    assert widths == [Image.open(io.BytesIO(content)).width for _, content in pictures]


def test_what_is_wrong_with_a_page_is_seen(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<title>t</title><img src="http://127.0.0.1:9/x.png"><img src="data:image/png;base64,AAAA">'
                    '<meta http-equiv="Content-Security-Policy" content=""><script>absent()</script>')  # fmt: skip
    seen = visit(page, tmp_path)
    assert seen.requests == ["http://127.0.0.1:9/x.png"]
    assert any("absent is not defined" in line for line in seen.console)
    assert picture_widths(page, tmp_path) == [0, 0]
