from __future__ import annotations

from asqcli.bench import machine


def test_what_it_was_measured_on(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Quick 3000 : X\nprocessor\t: 1\nmodel name\t: other\n"
    )
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    assert machine.processor() == "Quick 3000 : X"
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "absent")
    assert machine.processor()
    assert machine.load_average() is None or machine.load_average() >= 0
    found = machine.versions(("numpy", "no-such-package"))
    assert list(found) == ["python", "numpy"]
