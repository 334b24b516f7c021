"""All that is measured of one run, and what is missing of it, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import Tensor, nn

from asqcli.errors import AsqError, Interruption, UsageError, did_you_mean, some_of
from asqcli.models.names import is_factory
from asqcli.nn.forward import run_in_evaluation
from asqcli.nn.modes import evaluating
from asqcli.nn.observed import Layer, inputs_seen, outputs_kept, quantizers_off
from asqcli.nn.prepare import quant_layers
from asqcli.quant.spec import LayerSpec, QuantizerSpec
from asqcli.report.findings import Findings, LayerFinding, OutputError
from asqcli.report.measure.engine import export_and_time
from asqcli.report.measure.images import ImageSource, TestImages
from asqcli.report.measure.inputs import InputFigures, layer_input
from asqcli.report.measure.outputs import OutputFigures, points
from asqcli.report.measure.spread import spread_of
from asqcli.report.measure.weights import level_uses, weight_error
from asqcli.report.subject import Subject
from asqcli.run.checkpoint import Checkpoint, load_checkpoint
from asqcli.run.folder import LAST
from asqcli.run.restore import restore_model

SHOWN_LAYERS = 3  # whose levels are shown alone
FAR = 0.8  # relative error of weights: rounding to two bits makes half of it
MOST_IMAGES, MOST_PIXELS = 64, 1 << 18  # of a batch: outputs of all blocks are kept, of two networks


@dataclass
class Measurer:
    """Measures the networks of runs, one after the other.

    Attributes:
        source: of test images.
        pattern: of the layer whose input is shown; None for one in the middle.
        factory: the `module:factory` that the caller names; it is for the runs that were made by it.
        numbers: of the images whose inputs are shown, by the data and how many of it: the first run on them chooses,
            best one with adapters, and later ones show the same.
    """

    source: ImageSource
    pattern: str | None = None
    factory: str | None = None
    numbers: dict[tuple[str, int], tuple[int, int]] = field(init=False, default_factory=dict)

    def measure(self, subject: Subject) -> Findings:
        """Return what can be measured of a run.

        Raises:
            AsqError: the data or the pattern that the caller named does not fit.
        """
        findings = Findings()
        path = subject.folder.checkpoint(LAST)
        if not path.is_file():
            findings.notes.append("the run has no checkpoint yet, so there is no network to measure")
            return findings
        opened = _tried(lambda: self._open(subject), findings, "the network cannot be measured")
        if opened is None:
            return findings
        checkpoint, model = opened
        if not checkpoint.specs:
            findings.notes.append(f"nothing is quantized: the checkpoint is of the {checkpoint.progress.phase} phase")
            return findings
        with torch.no_grad(), evaluating(model):
            self._measure_network(checkpoint, model, findings)
        return findings

    def _open(self, subject: Subject) -> tuple[Checkpoint, nn.Module]:
        checkpoint = load_checkpoint(subject.folder.checkpoint(LAST))
        name = checkpoint.recipe.model
        factory = self.factory if is_factory(name) and self.factory == name else None
        return checkpoint, restore_model(checkpoint, source=str(subject.folder.path), factory=factory)

    def _measure_network(self, checkpoint: Checkpoint, model: nn.Module, findings: Findings) -> None:
        layers, specs = dict(quant_layers(model)), checkpoint.specs
        chosen = chosen_layer(specs, self.pattern)
        findings.levels = level_uses([(spec.name, layers[spec.name]) for spec in specs], _shown(specs, self.pattern))
        inputs = InputFigures()
        images = self._images(checkpoint, findings)
        if images is not None:
            inputs, outputs = _figures(model, images)
            findings.images, findings.measured_on = len(images.split), images.name
            findings.outputs = [OutputError(name, spread_of(v)) for name, v in outputs.errors.items()]
            if chosen is not None and chosen in inputs.errors:
                key = self.source.data or checkpoint.recipe.data.name, len(images.split)
                numbers = self.numbers.setdefault(key, inputs.extremes(chosen))
                findings.layer_input = layer_input(model, chosen, {n: _image(images, n) for n in numbers})
        exported = _tried(lambda: export_and_time(checkpoint, model), findings, "it cannot be exported, so no bytes")
        findings.exported, sizes, times = exported or (None, {}, {})
        findings.layers = [
            _layer(spec, layers[spec.name], inputs, sizes.get(spec.name), times.get(spec.name)) for spec in specs
        ]
        findings.notes += [_far_in_words(layer) for layer in findings.layers if (layer.weight_error or 0) > FAR]

    def _images(self, checkpoint: Checkpoint, findings: Findings) -> TestImages | None:
        """Return the images to measure on; None where they cannot be had, unless the caller said where they are."""
        if self.source.data is not None:
            return self.source.of(checkpoint)
        hint = "nothing is measured on images, --data names where they are now"
        return _tried(lambda: self.source.of(checkpoint), findings, hint)


def chosen_layer(specs: list[LayerSpec], pattern: str | None) -> str | None:
    """Return the first layer with a quantized input that a pattern matches; without a pattern, that in the middle.

    The first and the last layer, which are quantized otherwise, are no middle.

    Raises:
        UsageError: the pattern matches none.
    """
    names = [spec.name for spec in specs if spec.activations is not None]
    if pattern is not None:
        matches = [name for name in names if fnmatchcase(name, pattern)]
        if not matches:
            hint = did_you_mean(pattern, names) or f"they are {some_of(names)}"
            raise UsageError(f"`--layer {pattern}` matches no layer whose input is quantized", hint)
        return matches[0]
    inner = names[1:-1] or names
    return inner[len(inner) // 2] if inner else None


def _shown(specs: list[LayerSpec], pattern: str | None) -> list[str]:
    """Return the layers whose levels are shown alone: those that a pattern matches, or some evenly spread."""
    names = [spec.name for spec in specs if spec.weights is not None]
    if pattern is not None:
        return [name for name in names if fnmatchcase(name, pattern)][:SHOWN_LAYERS]
    inner = names[1:-1] or names
    return list(dict.fromkeys(inner[k * (len(inner) - 1) // (SHOWN_LAYERS - 1)] for k in range(SHOWN_LAYERS)))


def _figures(model: nn.Module, images: TestImages) -> tuple[InputFigures, OutputFigures]:
    """Run the network on the images, as it is and with its quantizers off."""
    inputs, outputs, places = InputFigures(), OutputFigures(), points(model)
    size = images.split.preprocessing.image_size
    for batch, _ in images.split.eval_batches(max(1, min(MOST_IMAGES, MOST_PIXELS // size**2))):
        with inputs_seen(model, inputs.see), outputs_kept(model, places) as quantized:
            run_in_evaluation(model, batch)
        inputs.end_batch()
        with quantizers_off(model), outputs_kept(model, places) as exact:
            run_in_evaluation(model, batch)
        outputs.add(quantized, exact)
    return inputs, outputs


def _image(images: TestImages, number: int) -> Tensor:
    inputs, _ = next(images.split.section(slice(number, number + 1)).eval_batches(1))
    return inputs


def _layer(
    spec: LayerSpec,
    layer: Layer,
    inputs: InputFigures,
    size: int | None,
    microseconds: float | None,
) -> LayerFinding:
    errors, beta = inputs.errors.get(spec.name), inputs.betas.get(spec.name)
    return LayerFinding(
        name=spec.name,
        kind=spec.kind,
        weights=_in_words(spec.weights),
        activations=_in_words(spec.activations),
        adapter=None if spec.adapter is None else str(spec.adapter),
        weight_error=weight_error(layer),
        activation_error=None if errors is None else spread_of(errors),
        beta=None if beta is None else spread_of(beta),
        bytes=size,
        microseconds=microseconds,
    )


def _far_in_words(layer: LayerFinding) -> str:
    return (
        f"the levels of `{layer.name}` do not fit its weights any more (relative error {layer.weight_error:.2f}): with "
        "quantizers off the network is another one, and output errors say little"
    )


def _in_words(spec: QuantizerSpec | None) -> str:
    return "float" if spec is None else str(spec)


Result = TypeVar("Result")


def _tried(work: Callable[[], Result], findings: Findings, what: str) -> Result | None:
    """Return what `work` does, or None, and say in the findings why not."""
    try:
        return work()
    except Interruption:
        raise
    except AsqError as error:
        findings.notes.append(f"{what}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        return None
