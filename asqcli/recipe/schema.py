"""The recipe: every key, with its type, default, bounds and meaning. Unknown keys are errors.

`weights` and `activations` are chosen by their `quantizer`, so that a key can only stand where it means something.
`asq recipe keys` and KEYS.md table what stands here: a description is read without the code around it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from asqcli.artifact.document import Deviation, Mean
from asqcli.measures import ACCURACY, AGREEMENT, Measure
from asqcli.quant.spec import AnyActivationSpec, AnyWeightSpec
from asqcli.strict import Strict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LARGEST_RATE = 1e30  # far beyond any use, and float32 holds it

# With the bounds of the exported file, so that what was trained can be exported.
Means = tuple[Mean, Mean, Mean]
Deviations = tuple[Deviation, Deviation, Deviation]


class FloatOperand(Strict):
    """Not quantized."""

    quantizer: Literal["float"] = "float"


Weights = Annotated[FloatOperand | AnyWeightSpec, Field(discriminator="quantizer")]
Activations = Annotated[FloatOperand | AnyActivationSpec, Field(discriminator="quantizer")]


class LayerRule(Strict):
    """What differs in the layers that a pattern matches; keys as in `weights` and `activations`."""

    weights: dict[Any, Any] = Field(default_factory=dict)
    activations: dict[Any, Any] = Field(default_factory=dict)


class Data(Strict):
    """Where images come from and how they reach the network."""

    name: Annotated[str, StringConstraints(min_length=1)] = Field(
        description="as `--data`: `digits`, `cifar10`, `cifar100`, or a folder of images"
    )
    labels: bool = Field(
        default=True,
        description="false: the images have none, or they do not count: the float network is the teacher "
        "(`train.distillation`), and what is measured is agreement with it",
    )
    classes: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        default=None,
        description="a file with the names of the network's classes, one a line, where they are not simply those of "
        "the data; a folder's classes must be among them",
    )
    image_size: Annotated[int, Field(ge=4, le=2048)] = Field(description="input size, pixels of a side")
    resize: Annotated[int, Field(ge=4, le=4096)] = Field(
        description="length of the shorter side before the centre crop, pixels"
    )
    mean: Means = Field(
        default=IMAGENET_MEAN, description="mean of each channel of pixels scaled to 0 .. 1; by default ImageNet's"
    )
    std: Deviations = Field(
        default=IMAGENET_STD, description="deviation of each channel of pixels scaled to 0 .. 1; by default ImageNet's"
    )
    augment: Literal["none", "shift", "shift_flip", "resized_crop"] = Field(
        description="what is changed at random in training images: shifts, flips too, or random parts of the image"
    )
    padding: Annotated[int, Field(ge=1, le=256)] = Field(default=4, description="pixels of border for shifts")
    workers: Annotated[int, Field(ge=0)] = Field(
        default=2, description="processes that decode images which do not fit in memory"
    )

    @property
    def measure(self) -> Measure:
        """What a share of right answers means."""
        return ACCURACY if self.labels else AGREEMENT

    @model_validator(mode="after")
    def _crop_fits(self):
        if self.resize < self.image_size:
            raise ValueError("`resize` must be at least `image_size`")
        return self

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


LearningRate = Annotated[float, Field(gt=0, le=LARGEST_RATE, description="learning rate, at the start of the cosine")]
Optimizer = Annotated[
    Literal["sgd", "adamw"],
    Field(description="beside a stated `lr`, `sgd` unless it is stated too; stated alone, it brings a rate of its own"),
]
RampSteps = Annotated[
    int, Field(ge=0, description="first steps, in which the rate rises to its cosine; 0 beside a stated `lr`")
]


class Warmup(Strict):
    """Float training before quantization, where no weights can be had."""

    epochs: Annotated[int, Field(ge=0)] = Field(description="epochs of float training, where no weights can be had")
    lr: LearningRate
    optimizer: Optimizer = "sgd"
    lr_ramp_steps: RampSteps = 0


class Finetune(Strict):
    """Float training before quantization of weights that come with a new head."""

    epochs: Annotated[int, Field(ge=0)] = Field(description="epochs of float training, where only the head is new")
    lr: LearningRate
    optimizer: Optimizer = "sgd"
    lr_ramp_steps: RampSteps = 0
    head_rate: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=1.0, description="rate of the new head, in units of `lr`"
    )


class Distillation(Strict):
    """A teacher: the float network as it was before quantization, or another one."""

    weight: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="share of the loss that is the distance from the teacher; 1: labels teach nothing"
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        default=4.0, description="divisor of both networks' logits before the softmax"
    )
    teacher: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        default=None,
        description="a run folder, or a network as `model`; off: the float network as it was before quantization",
    )
    teacher_weights: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        default=None,
        description="of a `teacher` that is a network: `official`, `factory`, a file or a run folder; off: the "
        "official ones, of a factory its own",
    )

    @model_validator(mode="after")
    def _weights_of_a_teacher(self):
        if self.teacher_weights is not None and self.teacher is None:
            raise ValueError("`teacher_weights` are those of a `teacher`, and none is named")
        return self


class Train(Strict):
    """The paper's section 4.1, and below `warmup` and `finetune` what is off in the paper."""

    epochs: Annotated[int, Field(ge=0)] = Field(description="epochs of quantized training")
    batch_size: Annotated[int, Field(ge=1)] = Field(description="images per step")
    lr: LearningRate
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.9, description="of SGD; of AdamW the first moment's decay (the second's is 0.99)"
    )
    weight_decay: Annotated[float, Field(ge=0, le=LARGEST_RATE)] = Field(
        default=1e-4, description="acts on the weights of convolutions and linear layers only"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0,
        description="of everything random: PyTorch's, NumPy's and Python's generators, before each build of the "
        "network and each step",
    )
    max_steps: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="stop after so many steps; no warm-up then"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="what convolutions and linear layers multiply in while they train, and what lies between layers; "
        "in `bfloat16` quantized ones multiply codes and levels, which are exact in it. Evaluation is the same",
    )
    warmup: Warmup
    finetune: Finetune | None = Field(
        default=None,
        description="float training of weights whose head is new, for other classes; where only `warmup` is stated, "
        "as that says",
    )
    optimizer: Optimizer = "sgd"
    lr_ramp_steps: RampSteps = 0
    step_lr: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=1.0, description="rate of step sizes, thresholds and offsets, in units of `lr`"
    )
    adapter_lr: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=1.0, description="rate of the adapters, in units of `lr`"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="share of the target that is spread over all classes"
    )
    distillation: Distillation | None = Field(
        default=None, description="a teacher, the float network or another, such as `{weight: 0.5, temperature: 4.0}`"
    )
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="exponential moving average of all parameters, such as 0.999; the average, with fresh batch-norm "
        "statistics, is the result",
    )
    freeze_oscillations: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="hold weights that jump to and fro more often than this, in jumps per step, such as 0.02",
    )
    batch_norm_batches: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="training batches to estimate batch-norm statistics from, before every evaluation and kept "
        "checkpoint; `auto`: at most 1,000 images' worth, where running averages lag behind the weights, and of a "
        "network that came with statistics the better of both; 0: never",
    )
    batch_norm: Literal["batch", "frozen"] = Field(
        default="batch",
        description="what batch norms normalise by in quantized training: the statistics of the `batch`, or `frozen` "
        "ones, as in evaluation: those that the network came with, or, where training images have less loss by them, "
        "estimates of the quantized network; without labels `frozen` unless stated",
    )

    def section(self, phase: str) -> Train | Warmup | Finetune:
        """Return the keys that say how a phase of a run steps: its own where it is a baseline's."""
        if phase == "warmup":
            return self.warmup
        return self.finetune if phase == "finetune" and self.finetune is not None else self


# Keys of `train` without a meaning in float.
OF_QUANTIZED_TRAINING = ("step_lr", "adapter_lr", "distillation", "freeze_oscillations", "batch_norm")


class Calibration(Strict):
    """Starting values of steps and thresholds, from training batches."""

    batches: Annotated[int, Field(ge=1)] = Field(default=4, description="training batches for the starting values")
    start: Literal["mse", "lsq"] = Field(
        default="mse",
        description="`mse`: least squared error (for activations, where that would round three quarters of them to 0, "
        "LSQ's); `lsq`: 2 mean|x| / sqrt(qmax), activations and uniform weights (`lsq+` activations: the whole range)",
    )


class Quantization(Strict):
    """What becomes of a network's layers."""

    weights: Weights
    activations: Activations
    first_last: Literal[8, "same", "float"] = Field(
        default=8, description="bits of the first and last layer; `same`: those of the others, without adapters"
    )
    layers: dict[str, LayerRule] = Field(
        default={},
        description="rules for single layers, `PATTERN: {weights: .., activations: ..}`, with the keys above; later "
        "rules lie over earlier ones",
    )

    @property
    def quantized(self) -> bool:
        """Is anything quantized at all? False for `--scheme float`."""
        operands = [self.weights.quantizer, self.activations.quantizer]
        operands += [
            q for r in self.layers.values() for q in (r.weights.get("quantizer"), r.activations.get("quantizer"))
        ]
        return any(q not in (None, "float") for q in operands)


class _Subject(Strict):
    """What is trained, on what. A base of its own so that it comes first in a written recipe."""

    model: Annotated[str, StringConstraints(min_length=1)] = Field(
        description="as on the command line: a name, `timm:NAME`, or your own `package.module:factory`"
    )
    pretrained: Annotated[str, StringConstraints(min_length=1)] = Field(
        default="auto", description="as `--weights`: `auto`, `official`, `factory`, `none`, a file or a run folder"
    )
    data: Data


class Recipe(Quantization, _Subject):
    """One run."""

    calibration: Calibration = Calibration()
    train: Train

    def float_twin(self, model: str, pretrained: str) -> Recipe:
        """Return the recipe of a float network, maybe another one, on the same data."""
        train = self.train.model_copy(update={key: Train.model_fields[key].default for key in OF_QUANTIZED_TRAINING})
        nothing = {"weights": FloatOperand(), "activations": FloatOperand(), "layers": {}}
        return self.model_copy(update={"model": model, "pretrained": pretrained, "train": train, **nothing})

    @model_validator(mode="after")
    def _only_a_teacher_without_labels(self):
        if self.data.labels:
            return self
        if not self.quantized:
            raise ValueError("without labels nothing can be trained in float: there would be nothing to learn from")
        if self.pretrained == "none":
            raise ValueError("without labels only a trained float network can teach: name its weights, not `none`")
        if self.train.distillation is None or self.train.distillation.weight < 1:
            raise ValueError(
                "without labels the teacher is all there is to learn from: `train.distillation.weight` is 1 then, and "
                "can be left out"
            )
        if self.train.label_smoothing:
            raise ValueError("`train.label_smoothing` makes no sense without labels")
        return self

    @model_validator(mode="after")
    def _nothing_idle(self):
        for key in OF_QUANTIZED_TRAINING:
            if getattr(self.train, key) != Train.model_fields[key].default and not self.quantized:
                raise ValueError(f"`train.{key}` makes no sense where nothing is quantized")
        if self.train.batch_norm == "frozen" and self.train.batch_norm_batches != "auto":
            raise ValueError("`train.batch_norm_batches` makes no sense beside `train.batch_norm: frozen`")
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
