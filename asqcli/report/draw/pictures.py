"""All pictures of a report, in their order, with their names and what they show in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asqcli.report.draw.betas import draw_betas, draw_betas_in_training
from asqcli.report.draw.curves import draw_curves
from asqcli.report.draw.errors import draw_layer_errors, draw_output_errors
from asqcli.report.draw.rounding import draw_inputs, draw_levels
from asqcli.report.draw.study import draw_study
from asqcli.report.findings import LayerFinding
from asqcli.report.study import Study
from asqcli.report.subject import RunReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE_BY_SIDE = 2  # runs whose inputs of a layer stand in one picture
SPREADS = "Joined are the medians over the images; bars are the middle half of the images, thin lines 5 to 95% of them."


@dataclass(frozen=True)
class Drawing:
    """One picture.

    Attributes:
        name: of its file, without its ending.
        title: a heading.
        caption: what is shown and how it was measured, with the runs' names as they are.
        figure: the picture itself.
    """

    name: str
    title: str
    caption: str
    figure: Figure


def draw_runs(runs: Sequence[RunReport]) -> Iterator[Drawing]:
    """Yield the pictures of runs that there is something to show in; within `asqcli.pictures.styled`."""
    if trained := [run for run in runs if run.subject.epochs]:
        caption = (
            "Filled markers: quantized training; hollow ones: float training. Measured after each epoch on the images "
            "that the run watches; thin lines without markers, of up to three runs: on training images, as they were "
            "trained on. The legend has the last accuracy of each part."
        )
        yield Drawing("curves", "Accuracy and loss", caption, draw_curves(trained))
    yield from _draw_levels(runs)
    yield from _draw_inputs(runs)
    yield from _draw_errors(runs)
    yield from _draw_betas(runs)


def draw_studies(studies: Sequence[Study]) -> Iterator[Drawing]:
    """Yield a picture of each study; within `asqcli.pictures.styled`."""
    for number, study in enumerate(studies, 1):
        caption = (
            "Hollow markers: one seed each, of the runs that are done. Bars: their mean. Dotted: the mean of the float "
            "networks that these runs started from."
        )
        title = f"Study {study.document.study}"
        yield Drawing(f"study_{number}", title, caption, draw_study(study.document))


def _draw_levels(runs: Sequence[RunReport]) -> Iterator[Drawing]:
    for run in runs:
        if run.findings.levels:
            caption = (
                f"{run.label}: the trained weights in units of their scale, before rounding in grey, and the share of "
                "them at each level. First all layers with the most frequent quantizer together, then some alone. "
                "Weights beyond the axis are clipped to the last level, too."
            )
            yield Drawing(f"levels_{run.index + 1}", f"Levels of the weights: {run.label}", caption, draw_levels(run))


def _draw_inputs(runs: Sequence[RunReport]) -> Iterator[Drawing]:
    there = [run for run in runs if run.findings.layer_input is not None]
    for number, first in enumerate(range(0, len(there), SIDE_BY_SIDE), 1):
        some = there[first : first + SIDE_BY_SIDE]
        names = dict.fromkeys(run.findings.layer_input.layer for run in some if run.findings.layer_input is not None)
        caption = (
            "The input of one layer for two images: above that with the smallest β of all images, below that with the "
            "largest; without an adapter the smallest and largest error count. Before quantization in grey, 80 bins; "
            "after it one line for each level. β scales the step, and so the distance between levels."
        )
        title = f"Activations before and after quantization: {', '.join(names)}"
        yield Drawing(f"activations_{number}", title, caption, draw_inputs(some))


def _draw_errors(runs: Sequence[RunReport]) -> Iterator[Drawing]:
    for number, some in enumerate(_alike(runs, lambda run: [output.name for output in run.findings.outputs]), 1):
        caption = (
            "Each block's output in the quantized network beside the same network with all quantizers off, on the same "
            "images: |quantized - float| / |float|, L2 norms. The float network has the trained weights as they are, "
            f"unquantized; it is not the one that training started from. {SPREADS}"
        )
        yield Drawing(f"outputs_{number}", "Output error, accumulated", caption, draw_output_errors(some))
    for number, some in enumerate(_alike(runs, lambda run: [layer.name for layer in run.findings.layers]), 1):
        if any(_has_error(layer) for run in some for layer in run.findings.layers):
            caption = (
                "What rounding and clipping do to the operands of each layer, its own input in the quantized network "
                f"and its weights: |quantized - float| / |float|, L2 norms. {SPREADS} Weights have one error each."
            )
            yield Drawing(f"layers_{number}", "Quantization error of each layer", caption, draw_layer_errors(some))


def _draw_betas(runs: Sequence[RunReport]) -> Iterator[Drawing]:
    for number, some in enumerate(_alike(runs, _measured_adapters), 1):
        caption = f"What the adapters answer: the factor on the step size of each image. {SPREADS}"
        yield Drawing(f"betas_{number}", "β of each layer over images", caption, draw_betas(some))
    for run in runs:
        if any(record.get("beta") for record in run.subject.epochs):
            caption = (
                f"{run.label}: the range of β after each epoch, over the images that the run watches, for some layers "
                "evenly spread over the network. Filled markers: the largest; hollow ones: the smallest."
            )
            figure = draw_betas_in_training(run)
            yield Drawing(f"betas_training_{run.index + 1}", f"β over training: {run.label}", caption, figure)


def _has_error(layer: LayerFinding) -> bool:
    return layer.activation_error is not None or layer.weight_error is not None


def _measured_adapters(run: RunReport) -> list[str]:
    return [layer.name for layer in run.findings.layers if layer.beta is not None]


def _alike(runs: Sequence[RunReport], names: Callable[[RunReport], list[str]]) -> list[list[RunReport]]:
    """Return the runs grouped by what stands on their axis; those with nothing on it are left out."""
    groups: dict[tuple[str, ...], list[RunReport]] = {}
    for run in runs:
        if own := names(run):
            groups.setdefault(tuple(own), []).append(run)
    return list(groups.values())
