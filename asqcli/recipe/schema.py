"""The recipe: every key, with its type, default and bounds. Unknown keys are errors.

`weights` and `activations` are chosen by their `quantizer`, so that a key can only stand where it means something.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from asqcli.artifact.document import Deviation, Mean
from asqcli.quant.levels import DEFAULT_GRID

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MOST_HIDDEN = 2**14
LARGEST_RATE = 1e30  # of what float32 can hold

# With the bounds of the exported file, so that what was trained can be exported.
Means = tuple[Mean, Mean, Mean]
Deviations = tuple[Deviation, Deviation, Deviation]


class Section(BaseModel):
    """What all sections share: fixed once read, no unknown key, no guessing of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FloatOperand(Section):
    """Not quantized."""

    quantizer: Literal["float"] = "float"


class UniformWeights(Section):
    """Whole numbers of a learned step size (LSQ)."""

    quantizer: Literal["lsq"] = "lsq"
    bits: Annotated[int, Field(ge=2, le=8)]
    per: Literal["channel", "tensor"] = "channel"


class _LevelWeights(Section):
    above_four_bits: ClassVar[str] = (
        "above 4 bits the levels near zero lie closer than the step of 8-bit codes and gain nothing; "
        "use `quantizer: lsq` for the weights (`--scheme asq`)"
    )

    bits: Annotated[int, Field(ge=2, le=4)]
    per: Literal["channel", "tensor"] = "channel"


class PostWeights(_LevelWeights):
    """Powers of the square root of two: the paper's Eq. 17, on a grid of integers."""

    quantizer: Literal["post"] = "post"
    grid: Literal["7/5", "17/12", "exact"] = DEFAULT_GRID
    levels: Literal["codes", "printed"] = "codes"

    @model_validator(mode="after")
    def _fits_int8(self):
        if (self.bits, self.grid, self.levels) == (4, "17/12", "printed"):
            raise ValueError("the printed 4-bit levels do not fit in int8 on the grid 17/12: choose 7/5 or exact")
        return self


class PotWeights(_LevelWeights):
    """Powers of two: Eq. 3."""

    quantizer: Literal["pot"] = "pot"
    levels: Literal["codes", "printed"] = "codes"


class ApotWeights(_LevelWeights):
    """Additive powers of two (Li et al. 2020)."""

    quantizer: Literal["apot"] = "apot"
    normalize: bool = False


class Adapter(Section):
    """The module that adapts the step size to each input: Eq. 4."""

    hidden: int | str = "quarter"
    bits: Literal[8, "float"] = 8
    output: Literal["reciprocal", "relu"] = "reciprocal"

    @field_validator("hidden")
    @classmethod
    def _quarter_or_units(cls, value):
        if value != "quarter" and not (isinstance(value, int) and 1 <= value <= MOST_HIDDEN):
            raise ValueError(f"choose quarter or a number of units from 1 to {MOST_HIDDEN}")
        return value


class LsqActivations(Section):
    """One learned step size for all inputs."""

    quantizer: Literal["lsq"] = "lsq"
    bits: Annotated[int, Field(ge=2, le=8)]


class AsqActivations(Section):
    """A learned step size times a factor that an adapter computes from each input."""

    quantizer: Literal["asq"] = "asq"
    bits: Annotated[int, Field(ge=2, le=8)]
    adapter: Adapter = Adapter()
    dequantize_by: Literal["adapted_step_size", "step_size"] = "adapted_step_size"


class PactActivations(Section):
    """One learned clipping threshold (Choi et al. 2018)."""

    quantizer: Literal["pact"] = "pact"
    bits: Annotated[int, Field(ge=2, le=8)]


class OffsetActivations(Section):
    """A learned step size and a learned offset, a whole number of steps (Bhalgat et al. 2020)."""

    quantizer: Literal["lsq+"] = "lsq+"
    bits: Annotated[int, Field(ge=2, le=8)]


QuantizedWeights = UniformWeights | PostWeights | PotWeights | ApotWeights
QuantizedActivations = LsqActivations | AsqActivations | PactActivations | OffsetActivations
Weights = Annotated[FloatOperand | QuantizedWeights, Field(discriminator="quantizer")]
Activations = Annotated[FloatOperand | QuantizedActivations, Field(discriminator="quantizer")]


class LayerRule(Section):
    """What differs in the layers that a pattern matches; keys as in `weights` and `activations`."""

    weights: dict = {}
    activations: dict = {}


class Data(Section):
    """Where images come from and how they reach the network."""

    name: Annotated[str, StringConstraints(min_length=1)]
    image_size: Annotated[int, Field(ge=4, le=2048)]
    resize: Annotated[int, Field(ge=4, le=4096)]
    mean: Means = IMAGENET_MEAN
    std: Deviations = IMAGENET_STD
    augment: Literal["none", "shift", "shift_flip", "resized_crop"]
    padding: Annotated[int, Field(ge=1, le=256)] = 4
    workers: Annotated[int, Field(ge=0)] = 2

    @model_validator(mode="after")
    def _crop_fits(self):
        if self.resize < self.image_size:
            raise ValueError("`resize` must be at least `image_size`")
        return self

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value):
        return tuple(value) if isinstance(value, list) else value


LearningRate = Annotated[float, Field(gt=0, le=LARGEST_RATE)]
Optimizer = Literal["sgd", "adamw"]
RampSteps = Annotated[int, Field(ge=0)]


class Warmup(Section):
    """Float training before quantization, where no weights can be had or the head is new."""

    epochs: Annotated[int, Field(ge=0)]
    lr: LearningRate
    optimizer: Optimizer = "sgd"
    lr_ramp_steps: RampSteps = 0


class Distillation(Section):
    """A float teacher: the network as it was before quantization."""

    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 4.0


class Train(Section):
    """The paper's section 4.1, and below `warmup` what is off in the paper."""

    epochs: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=1)]
    lr: LearningRate
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=LARGEST_RATE)] = 1e-4
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    max_steps: Annotated[int, Field(ge=1)] | None = None
    warmup: Warmup
    optimizer: Optimizer = "sgd"
    lr_ramp_steps: RampSteps = 0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    distillation: Distillation | None = None
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    freeze_oscillations: Annotated[float, Field(gt=0, lt=1)] | None = None
    batch_norm_batches: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"


class Calibration(Section):
    """Starting values of steps and thresholds, from training batches."""

    batches: Annotated[int, Field(ge=1)] = 4
    start: Literal["mse", "lsq"] = "mse"


class Quantization(Section):
    """What becomes of a network's layers."""

    weights: Weights
    activations: Activations
    first_last: Literal[8, "same", "float"] = 8
    layers: dict[str, LayerRule] = {}

    @property
    def quantized(self) -> bool:
        """Is anything quantized at all? False for `--scheme float`."""
        operands = [self.weights.quantizer, self.activations.quantizer]
        operands += [
            q for r in self.layers.values() for q in (r.weights.get("quantizer"), r.activations.get("quantizer"))
        ]
        return any(q not in (None, "float") for q in operands)


class _Subject(Section):
    """What is trained, on what. A base of its own so that it comes first in a written recipe."""

    model: Annotated[str, StringConstraints(min_length=1)]
    pretrained: Annotated[str, StringConstraints(min_length=1)] = "auto"
    data: Data


class Recipe(Quantization, _Subject):
    """One run."""

    calibration: Calibration = Calibration()
    train: Train

    @model_validator(mode="after")
    def _nothing_idle(self):
        for key in ("distillation", "freeze_oscillations"):
            if getattr(self.train, key) is not None and not self.quantized:
                raise ValueError(f"`train.{key}` makes no sense where nothing is quantized")
        return self


SCHEMES = {
    # name: (weights, activations); post and asq are the paper's schemes 2 and 1
    "post": ("post", "asq"),
    "asq": ("lsq", "asq"),
    "pot": ("pot", "lsq"),
    "apot": ("apot", "lsq"),
    "lsq": ("lsq", "lsq"),
    "float": ("float", "float"),
}


def scheme_of(weights: str, activations: str) -> str:
    """Return the scheme's name for a pair of quantizers, or `weights-activations` where none has one."""
    return next((n for n, pair in SCHEMES.items() if pair == (weights, activations)), f"{weights}-{activations}")
