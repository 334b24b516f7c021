import pytest
import torch

from asqcli.nn.products import bindings
from asqcli.quant.kernels import native
from asqcli.run.compiled import missing_in_words

CPU = torch.device("cpu")
built = pytest.mark.skipif(
    native.loaded() is None or bindings.compiled() is None, reason="the passes of training were not compiled"
)


@pytest.fixture
def forget():
    """Let libraries be looked for again, in this test and after it."""

    def clear():
        for found in (native.loaded, bindings.compiled, bindings.find_library):
            found.cache_clear()

    yield clear
    clear()


@built
def test_nothing_is_told_of_what_is_there():
    assert not list(missing_in_words(CPU))


@built
def test_passes_of_another_source_are_missing(monkeypatch, forget):
    """A library that lacks a function stands for one of an older source."""
    monkeypatch.setattr(native, "LIBRARY", bindings.LIBRARY)
    forget()
    [note] = missing_in_words(CPU)
    assert note.startswith("warning: the compiled fake quantizers of training are missing, or of another version")
    assert not list(missing_in_words(torch.device("cuda")))


def test_all_that_is_missing_is_named_once(monkeypatch, forget, tmp_path):
    for module in (native, bindings):
        monkeypatch.setattr(module, "LIBRARY", tmp_path / "none.so")
    forget()
    [note] = missing_in_words(CPU)
    assert "fake quantizers and convolutions" in note and "install asq again" in note
