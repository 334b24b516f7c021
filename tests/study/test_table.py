import csv
import io

import pytest

from asqcli.study.document import Outcome, study_document
from asqcli.study.table import as_csv, as_markdown, text_table
from tests.study.parts import outcomes_of, study_of

STUDY = """\
model: resnet20
seeds: [0, 1, 2]
rows: {LSQ: {scheme: lsq}, "A|SQ": {scheme: asq}}
grid: {bits: [2, 3]}
"""


@pytest.fixture
def document(tmp_path):
    study = study_of(tmp_path, STUDY, weights="none")
    found = outcomes_of(study, {"LSQ 2": [88, 89, 90], "LSQ 3": [91, 91.5], "A|SQ 2": [88.5, 89.5, 90.25]})
    found["a-sq-w3a3-seed0"] = Outcome("failed", reason="diverged: the loss became inf", exit_code=5)
    found["a-sq-w3a3-seed1"] = Outcome("running")
    return study_document(study, found)


def test_the_document(document):
    assert [(row["row"], row["bits"], row["mean"]) for row in document["rows"]] == [
        ("LSQ", 2, 89.0), ("LSQ", 3, 91.25), ("A|SQ", 2, pytest.approx(89.417)), ("A|SQ", 3, None)
    ]  # fmt: skip
    assert document["rows"][0]["spread"] == 1.0 and document["rows"][0]["to_float"] == -1.0
    two, three = document["comparisons"]
    assert (two["row"], two["against"], two["bits"], two["pairs"], two["wins"]) == ("A|SQ", "LSQ", 2, 3, 3)
    assert two["mean_difference"] == pytest.approx(0.417) and two["p_value"] is not None
    assert three["pairs"] == 0 and three["p_value"] is None and three["mean_difference"] is None
    cells = document["rows"][3]["cells"]
    assert [cell["status"] for cell in cells] == ["failed", "running", "waiting"]
    assert cells[0]["command"].endswith("--out a-sq-w3a3-seed0") and "--seed 0" in cells[0]["command"]


def test_a_float_network_that_was_never_trained_is_no_yardstick(tmp_path):
    study = study_of(tmp_path, "model: resnet20\ngrid: {bits: [3]}\n")
    (row,) = study_document(study, {study.cells[0].name: Outcome("done", 50.0, None)})["rows"]
    assert row["mean"] == 50.0 and row["to_float"] is None


def test_the_table_for_people(document):
    table = text_table(document)
    assert table.headings == ("row", "bits", "seeds", "top-1", "spread", "to float", "to LSQ", "wins", "which shows")
    assert table.rows[0] == ("LSQ", "2", "3", "89.00", "1.00", "-1.00", "", "", "")
    assert table.rows[1][2] == "2 of 3" and table.rows[3][2] == "0 of 3, 1 running, 1 failed"
    assert table.rows[2][6:8] == ("+0.42", "3 of 3") and table.rows[3][6:] == ("", "", "no pairs yet")
    assert "a-sq-w3a3-seed0 failed: diverged: the loss became inf" in table.notes
    lines = as_markdown(document).decode().splitlines()
    assert lines[0] == "# mine" and lines[4].startswith("| LSQ | 2 | 3 | 89.00 |") and "| A\\|SQ | 2 |" in lines[6]


def test_the_table_for_programs(document):
    rows = list(csv.DictReader(io.StringIO(as_csv(document).decode())))
    assert [row["seeds"] for row in rows] == ["3", "2", "3", "0"]
    assert rows[2]["top1_seed2"] == "90.25" and rows[2]["against"] == "LSQ" and rows[1]["top1_seed2"] == ""
