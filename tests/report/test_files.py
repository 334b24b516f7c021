"""Where a page goes, and what it may replace."""

from __future__ import annotations

from pathlib import Path

import pytest

from asqcli.errors import MachineError, UsageError
from asqcli.pictures import new_figure, png, styled
from asqcli.report.files import Place
from asqcli.run.folder import RunFolder

PAGE = '<meta name="generator" content="asq report">'


@pytest.fixture(scope="module")
def picture():
    pytest.importorskip("matplotlib")
    with styled():
        return png(new_figure(1, 1))


def test_a_page_of_one_run_lies_in_its_folder():
    assert Place.choose(None, [Path("a")]).page == Path("a/report.html")
    assert Place.choose(None, [Path("a"), Path("b")]).page == Path("report.html")
    place = Place.choose(Path("x/y.html"), [Path("a")])
    assert (place.page, place.picture("p")) == (Path("x/y.html"), Path("x/y_files/p.png"))
    with pytest.raises(UsageError, match=r"does not end in \.html"):
        Place.choose(Path("y.pdf"), [])


def test_only_a_page_of_ours_is_replaced_and_only_by_force(tmp_path):
    place = Place(tmp_path / "page.html")
    place.require_free(force=False)
    place.page.write_text("<p>mine</p>")
    with pytest.raises(UsageError, match="no page that asq made"):
        place.require_free(force=True)
    place.write(PAGE, {})
    place.require_free(force=True)
    with pytest.raises(UsageError, match="is there already") as failure:
        place.require_free(force=False)
    assert "--force" in failure.value.hint


def test_pictures_of_before_go_and_others_stay(tmp_path, picture):
    place = Place(tmp_path / "page.html")
    place.write(PAGE, {"a": picture, "b": picture})
    (place.folder / "photo.png").write_bytes(b"mine")
    place.write(PAGE, {"a": picture})
    assert {path.name for path in place.folder.iterdir()} == {"a.png", "photo.png"}
    with pytest.raises(UsageError, match=r"photo\.png` is there already"):
        place.write(PAGE, {"a": picture, "photo": picture})
    assert (place.folder / "photo.png").read_bytes() == b"mine"


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(MachineError, match="no folder"):
        Place(tmp_path / "absent" / "page.html").require_free(force=False)
    (tmp_path / "page_files").write_text("")
    with pytest.raises(UsageError, match="is no folder"):
        Place(tmp_path / "page.html").require_free(force=False)


def test_a_run_with_its_report_is_replaced(tmp_path, picture):
    """`asq quantize --force` knows what a report leaves in a run's folder, and nothing beside it."""

    def make():
        folder = RunFolder.create(str(tmp_path / "run"), "run", force=True)
        folder.write_recipe({}, None)
        folder.write_environment({})
        place = Place.choose(None, [folder.path])
        place.write(PAGE, {"curves": picture})
        return place

    make()
    place = make()
    (place.folder / "photo.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"photo\.png` is not of a run"):
        make()
