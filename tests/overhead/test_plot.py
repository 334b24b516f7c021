from pathlib import Path

import pytest

from asqcli import pictures
from asqcli.errors import MachineError, UsageError
from asqcli.overhead import plot

ROWS = [
    {"bits": 8, "param_percent": 2.67, "stored_param_percent": 2.5, "compute_percent": 0.04},
    {"bits": 2, "param_percent": 10.67, "stored_param_percent": 9.0, "compute_percent": 0.14},
]


def test_every_figure_has_a_bar_and_its_number():
    pytest.importorskip("matplotlib")
    storage, compute = plot._draw("net", ROWS).axes
    assert [bar.get_height() for bar in storage.patches] == [2.67, 10.67, 2.5, 9.0]
    assert [bar.get_height() for bar in compute.patches] == [0.04, 0.14]
    assert {text.get_text() for text in storage.texts} == {"2.67", "10.67", "2.50", "9.00"}
    assert [label.get_text() for label in compute.get_xticklabels()] == ["8 bits", "2 bits"]


def test_a_png_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    plot.write_plot(tmp_path / "shares.png", "net", ROWS)
    assert (tmp_path / "shares.png").read_bytes().startswith(b"\x89PNG\r\n")
    with pytest.raises(MachineError, match="cannot write"):
        plot.write_plot(tmp_path / "absent" / "deep" / "shares.png", "net", ROWS)


def test_what_cannot_be_drawn_is_told_first(monkeypatch):
    plot.check_plot(Path("a.PNG"))
    with pytest.raises(UsageError, match=r"does not end in \.png"):
        plot.check_plot(Path("a.pdf"))
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    with pytest.raises(MachineError) as failure:
        plot.check_plot(Path("a.png"))
    assert failure.value.hint == "pip install 'asqcli[report]'"
