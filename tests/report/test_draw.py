"""Pictures: they show something, and none of their texts lies over another or beyond the edge."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from asqcli.pictures import is_own_png, png, styled
from asqcli.report.draw.errors import draw_layer_errors
from asqcli.report.draw.pictures import draw_runs, draw_studies
from asqcli.report.study import Study, StudyDocument
from tests.report.conftest import NAN, made_up_run, spread

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.slow

LEAST = 0.02  # share of a picture that is not white


def texts_of(figure):
    """Return (text, its box in pixels) of all that is drawn; the figure's canvas then holds it drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in filter(lambda axes: axes.get_visible(), figure.axes):
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in filter(lambda axis: axis.get_visible(), (axes.xaxis, axes.yaxis)):
            found += [label for tick in axis._update_ticks() for label in (tick.label1, tick.label2)]
    shown = [text for text in found if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in shown]


def overlaps(figure):
    """Return pairs of texts that lie over each other, and texts that leave the picture."""
    texts = texts_of(figure)
    width, height = figure.canvas.get_width_height()
    beyond = [t for t, box in texts if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1]
    pairs = [
        (one, other)
        for k, (one, a) in enumerate(texts)
        for other, b in texts[k + 1 :]
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]
    return pairs, beyond


def drawn(drawings):
    """Check the pictures, and return their names."""
    names = []
    with styled():
        for drawing in drawings:
            assert overlaps(drawing.figure) == ([], []), drawing.name
            pixels = np.asarray(drawing.figure.canvas.buffer_rgba())[..., :3]
            assert (pixels < 250).any(axis=-1).mean() > LEAST, drawing.name
            names.append(drawing.name)
    return names


def test_overlapping_texts_are_found():
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().text(0.5, 0.5, "one")
    figure.axes[0].text(0.5, 0.5, "other")
    figure.axes[0].text(-3, 0.5, "far left")
    assert overlaps(figure) == ([("one", "other")], ["far left"])


def test_two_runs_share_what_can_be_compared():
    names = drawn(draw_runs([made_up_run(0, "asq"), made_up_run(1, "lsq", adapters=False)]))
    assert names == ["curves", "levels_1", "levels_2", "activations_1", "outputs_1", "layers_1", "betas_1",
                     "betas_training_1", "betas_training_2"]  # fmt: skip


@pytest.mark.parametrize("layers", [1, 160])
def test_networks_of_any_depth(layers):
    assert "layers_1" in drawn(draw_runs([made_up_run(0, "deep", layers, prefix="features.denseblock3.denselayer")]))


def test_networks_that_differ_have_pictures_of_their_own():
    with styled():
        names = {drawing.name for drawing in draw_runs([made_up_run(k, str(k), 3 + k) for k in range(2)])}
    assert {"outputs_1", "outputs_2", "layers_2", "betas_2"} < names and "activations_2" not in names


def test_names_of_strangers():
    labels = ("<script>alert(1)</script>", "a $x_2 b", "_hidden", "名前", "x" * 200)
    with styled():
        drawings = list(draw_runs([made_up_run(k, label, 3) for k, label in enumerate(labels)]))
    drawn(drawing for drawing in drawings if drawing.name in ("curves", "activations_1", "activations_3", "outputs_1"))


def test_a_legend_has_every_run():
    with styled():
        curves = next(draw_runs([made_up_run(0, "_a"), made_up_run(1, "b$c")]))
        labels = [text for text, _ in texts_of(curves.figure)]
    assert " _a, quantized: 83.00%" in labels and r"b\$c, float: 82.00%" in labels


def test_figures_that_are_no_numbers_leave_gaps():
    run = made_up_run()
    run.subject.epochs[3].update(loss=NAN, train_loss=float("inf"), top1=NAN)
    run.subject.epochs[4].update(top1=None)
    layers = [dataclasses.replace(run.findings.layers[0], activation_error=spread(NAN), weight_error=NAN, beta=None)]
    run.findings.layers[:1] = layers
    run.findings.outputs[0] = dataclasses.replace(run.findings.outputs[0], error=spread(NAN))
    drawn(draw_runs([run]))


def test_errors_of_one_operand():
    """Without images there are errors of weights alone."""
    run = made_up_run(layers=3)
    run.findings.layers[:] = [dataclasses.replace(layer, activation_error=None) for layer in run.findings.layers]
    with styled():
        figure = draw_layer_errors([run])
    assert [axes.get_ylabel() for axes in figure.axes] == ["relative error of the weights"]
    assert overlaps(figure) == ([], [])


def test_a_study(tmp_path):
    cells = [{"seed": seed, "run": f"r{seed}", "status": "done", "top1": 86.0 + seed, "float_top1": 88.7}
             for seed in range(3)]  # fmt: skip
    rows = [{"row": f"{scheme}-w{bits}", "scheme": scheme, "bits": bits, "cells": cells, "mean": 87.0}
            for scheme in ("lsq", "asq", "post") for bits in (2, 3, 4)]  # fmt: skip
    rows.append({"row": "waiting", "scheme": "pot", "bits": 3, "cells": [{"seed": 0, "run": "x", "status": "waiting"}]})
    document = StudyDocument.model_validate({"study": "s", "rows": rows})
    with styled():
        (drawing,) = draw_studies([Study(tmp_path, document)])
        assert drawn([drawing]) == ["study_1"]
        rows_shown = [text for text, _ in texts_of(drawing.figure) if "bits" in text]
    assert rows_shown[0] == "lsq-w4, 4 bits" and rows_shown[-1] == "post-w2, 2 bits"


def test_pictures_are_known_again(tmp_path):
    with styled():
        (tmp_path / "own.png").write_bytes(png(next(draw_runs([made_up_run()])).figure))
    Image.new("L", (4, 4)).save(tmp_path / "other.png")
    assert is_own_png(tmp_path / "own.png") and not is_own_png(tmp_path / "other.png")
    assert not is_own_png(tmp_path / "absent.png")
