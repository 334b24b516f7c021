"""What rounding does to the inputs of layers, image by image, and what the adapters answer to each."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from asqcli.nn.forward import run_in_evaluation
from asqcli.nn.observed import Layer, inputs_seen
from asqcli.quant.activation_quantizers import ActivationQuantizer
from asqcli.report.findings import ImageInput, LayerInput
from asqcli.report.measure.spread import relative_errors, rounding_of

BINS = 80


class InputFigures:
    """Errors and betas of each layer over images, batch by batch; of a layer that is called twice, its last call's."""

    def __init__(self) -> None:
        self._errors: dict[str, list[Tensor]] = defaultdict(list)
        self._betas: dict[str, list[Tensor]] = defaultdict(list)
        self._latest: dict[str, tuple[Tensor, Tensor | None]] = {}

    def see(self, name: str, layer: Layer, x: Tensor) -> None:
        """Take in a layer's input, (N, ..): for `inputs_seen`."""
        quantizer = layer.activation_quantizer
        if quantizer is not None:
            codes, scale = quantizer.quantize(x)
            beta = None if quantizer.adapter is None else quantizer.adapter(x).flatten()
            self._latest[name] = relative_errors(codes * scale, x), beta

    def end_batch(self) -> None:
        """Keep what was seen of the batch."""
        for name, (errors, beta) in self._latest.items():
            self._errors[name].append(errors)
            if beta is not None:
                self._betas[name].append(beta)
        self._latest.clear()

    @property
    def errors(self) -> dict[str, Tensor]:
        """|quantized - float| / |float| of each layer's input, (N,)."""
        return {name: torch.cat(parts) for name, parts in self._errors.items()}

    @property
    def betas(self) -> dict[str, Tensor]:
        """The adapters' answers, (N,), by layer."""
        return {name: torch.cat(parts) for name, parts in self._betas.items()}

    def extremes(self, name: str) -> tuple[int, int]:
        """Return the numbers of the images with a layer's smallest and largest beta, without an adapter error."""
        figures = self.betas.get(name, self.errors[name])
        return int(figures.argmin()), int(figures.argmax())


def layer_input(model: nn.Module, name: str, images: dict[int, Tensor]) -> LayerInput:
    """Return a layer's input before and after quantization.

    Args:
        model: in evaluation mode.
        name: of a layer whose input is quantized.
        images: (1, 3, H, W) each, by their number.
    """
    seen: dict[str, Tensor] = {}

    def see(layer: str, _: Layer, x: Tensor) -> None:
        seen[layer] = x

    quantizer = model.get_submodule(name).activation_quantizer
    assert isinstance(quantizer, ActivationQuantizer)
    views: list[ImageInput] = []
    for number, image in images.items():
        with inputs_seen(model, see):
            run_in_evaluation(model, image)
        views.append(_view(number, quantizer, seen[name]))
    return LayerInput(layer=name, quantizer=str(quantizer.spec), images=views)


@torch.no_grad()
def _view(number: int, quantizer: ActivationQuantizer, x: Tensor) -> ImageInput:
    codes, scale = quantizer.quantize(x)
    qmin, qmax, _ = quantizer.integer_form()
    step_size = scale.double().item()
    levels = torch.arange(qmin, qmax + 1, dtype=torch.float64) * step_size
    low, high = (min(0.0, x.min().item(), levels[0].item()), max(x.max().item(), levels[-1].item()))
    return ImageInput(
        image=number,
        beta=None if quantizer.adapter is None else quantizer.adapter(x).item(),
        step_size=step_size,
        rounding=rounding_of(x, codes.double() * step_size, levels, low=low, high=high, bins=BINS),
    )
