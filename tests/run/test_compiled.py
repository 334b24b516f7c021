"""Compiled passes that are missing are told of before training, where they would be used."""

import pytest

from asqcli.engine.native import bindings as kernels
from asqcli.nn.products import bindings as products
from asqcli.quant.kernels import native as fake_quantizers
from asqcli.run import entry
from asqcli.run.context import RunContext
from tests.run.test_entry import recipe_for
from tests.run.whole_runs import CPU, Notes

LIBRARIES = (fake_quantizers.loaded, kernels.find_library, products.loaded)


@pytest.fixture
def forget():
    """Let libraries be looked for again, in this test and after it."""

    def clear():
        for found in (*LIBRARIES, products.find_library, kernels.compiled_kernels):
            found.cache_clear()

    yield clear
    clear()


def told(folder, *overrides, **chosen):
    reporter = Notes()
    entry.dry_run(recipe_for(folder, *overrides, **chosen), RunContext(CPU, reporter), source="test")
    return [note for note in reporter.notes if "compiled" in note]


@pytest.mark.skipif(any(found() is None for found in LIBRARIES), reason="the passes of training were not compiled")
def test_passes_of_another_source_are_missing(monkeypatch, forget, image_folder):
    """A library that lacks a function stands for one of an older source."""
    assert not told(image_folder)
    monkeypatch.setattr(fake_quantizers, "LIBRARY", products.LIBRARY)
    forget()
    [note] = told(image_folder)
    assert note.startswith("warning: compiled passes of training are missing, or of another version (fake quantizers):")


def test_what_is_missing_is_named_where_it_would_be_used(monkeypatch, forget, image_folder, tmp_path):
    for module in (fake_quantizers, kernels, products):
        monkeypatch.setattr(module, "LIBRARY", tmp_path / "none.so")
    forget()
    [note] = told(image_folder)
    assert "(fake quantizers, products of whole numbers, convolutions)" in note and "install asq again" in note
    [note] = told(image_folder, "train.precision=bfloat16")
    assert "(fake quantizers)" in note
    assert not told(image_folder, scheme="float", bits=None)
