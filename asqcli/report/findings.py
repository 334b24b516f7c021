"""What is measured of a run's network, as plain numbers. Figures over images are one for each image, and of all of them
five are kept."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Spread:
    """A figure over images.

    Attributes:
        low, lower, median, upper, high: 5, 25, 50, 75 and 95% of the images have at most this.
    """

    low: float
    lower: float
    median: float
    upper: float
    high: float


@dataclass(frozen=True)
class Histogram:
    """How values are spread.

    Attributes:
        edges: of the bins, one more than there are shares.
        shares: of all values, also of those that lie in no bin.
    """

    edges: list[float]
    shares: list[float]


@dataclass(frozen=True)
class Rounding:
    """Values before and after they were rounded to levels.

    Attributes:
        before: the values.
        levels: ascending; those that no value was rounded to, too.
        shares: of the values, at each level.
    """

    before: Histogram
    levels: list[float]
    shares: list[float]


@dataclass(frozen=True)
class LevelUse:
    """How the weights of one layer, or of all layers with the same quantizer, use their levels.

    Attributes:
        layers: their names.
        quantizer: in words.
        unit: `step size`, or `clipping threshold`.
        rounding: of the weights, in this unit, which differs between output channels.
    """

    layers: list[str]
    quantizer: str
    unit: str
    rounding: Rounding


@dataclass(frozen=True)
class ImageInput:
    """A layer's input for one image.

    Attributes:
        image: its number among the test images that were taken.
        beta: of the adapter, None where there is none.
        step_size: that the input was rounded with, adapted by beta; real units.
        rounding: of the input, real units.
    """

    image: int
    beta: float | None
    step_size: float
    rounding: Rounding


@dataclass(frozen=True)
class LayerInput:
    """A layer's input before and after quantization.

    Attributes:
        layer: its name.
        quantizer: in words.
        images: of all, those with the smallest and the largest beta.
    """

    layer: str
    quantizer: str
    images: list[ImageInput]


@dataclass(frozen=True)
class LayerFinding:
    """One quantized layer.

    Attributes:
        name, kind: as its spec has them.
        weights, activations, adapter: in words; `float` where an operand is not quantized, None without an adapter.
        weight_error: |quantized - float| / |float| of the weights, L2 norms; None where they are float.
        activation_error: the same of its input, over images.
        beta: of its adapter, over images.
        bytes: that an export stores of it.
        microseconds: of one image in the engine, on one thread, with all that is fused with the layer.
    """

    name: str
    kind: str
    weights: str
    activations: str
    adapter: str | None
    weight_error: float | None = None
    activation_error: Spread | None = None
    beta: Spread | None = None
    bytes: int | None = None
    microseconds: float | None = None


@dataclass(frozen=True)
class OutputError:
    """What quantization changed of the output of a block or layer, accumulated up to there.

    Attributes:
        name: of the module.
        error: |quantized network's - float network's| / |float network's|, L2 norms, over images.
    """

    name: str
    error: Spread


@dataclass(frozen=True)
class Exported:
    """The network as an export writes it.

    Attributes:
        bytes: of the file.
        kernel: of the engine that it was timed on.
        processor: the machine's.
    """

    bytes: int
    kernel: str
    processor: str


@dataclass
class Findings:
    """What was measured of a run's network.

    Attributes:
        images: how many test images it was measured on, 0 where they could not be had.
        measured_on: these, in words.
        layers: in the order of execution.
        levels: all layers with the most frequent quantizer of weights together, then some alone.
        layer_input: of the layer that was chosen.
        outputs: in the order of execution.
        exported: None where it cannot be exported.
        notes: what could not be measured, and why; what makes figures unusual.
    """

    images: int = 0
    measured_on: str = ""
    layers: list[LayerFinding] = field(default_factory=list)
    levels: list[LevelUse] = field(default_factory=list)
    layer_input: LayerInput | None = None
    outputs: list[OutputError] = field(default_factory=list)
    exported: Exported | None = None
    notes: list[str] = field(default_factory=list)
