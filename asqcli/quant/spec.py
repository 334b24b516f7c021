"""What a quantizer is, in settings: a recipe says it, a module is built from it, a checkpoint keeps it. No torch.

A description is read without the code around it: `asq recipe keys` and KEYS.md table them. The order of the fields is
that of the keys in files of runs.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from asqcli.quant.levels import DEFAULT_GRID, LevelSet, apot_levels, post_levels, pot_levels, uniform_level_table
from asqcli.strict import Strict

MOST_HIDDEN = 2**14
HIDDEN_RATIO = 4
WIDEST_QUARTER = 512  # a linear layer's inputs may be all pixels of its channels: 25,088 in VGG
NARROW = 8  # below this many channels a hidden layer would have one unit at most

Scale = Annotated[Literal["channel", "tensor"], Field(description="one scale per output `channel` or per `tensor`")]
Levels = Annotated[
    Literal["codes", "printed"],
    Field(
        description="`codes`: what b bits can name; `printed`: the 2^b + 1 levels of Eqs. 3 and 17, in b + 1 bits "
        "(4-bit `post`: not on the grid 17/12; 4-bit `pot`: not for integers, its levels go up to 128)"
    ),
]
EightBits = Annotated[int, Field(ge=2, le=8, description="bits per value, sign included")]
FourBits = Annotated[int, Field(ge=2, le=4, description="bits per value, sign included")]


class QuantizerSpec(Strict):
    """What the specs of weights and of activations share.

    Attributes:
        quantizer: its name.
        bits: per value, sign included.

    >>> str(PostWeights(bits=4, per="tensor")), str(LsqActivations(bits=8))
    ('post 4 bits (7/5, per tensor)', 'lsq 8 bits')
    """

    if TYPE_CHECKING:
        quantizer: str
        bits: int

    def __str__(self) -> str:
        options = ", ".join(self.options())
        return f"{self.quantizer} {self.bits} bits" + (f" ({options})" if options else "")

    def options(self) -> list[str]:
        """Return the options worth showing in a table of layers, in a word or two each."""
        return []


class WeightSpec(QuantizerSpec):
    """What quantizes the weights of a layer.

    Attributes:
        per: channel or tensor, what shares one scale.
    """

    if TYPE_CHECKING:
        per: Scale

    @property
    @abstractmethod
    def code_bits(self) -> int:
        """Bits of a stored code, sign included."""

    @property
    @abstractmethod
    def level_table(self) -> tuple[float, ...]:
        """Code to level, 2^code_bits entries."""

    def scale_count(self, channels: int) -> int:
        """Return the number of scales of a layer with so many output channels."""
        return channels if self.per == "channel" else 1

    def options(self) -> list[str]:
        return ["per tensor"] if self.per == "tensor" else []


class UniformWeights(WeightSpec):
    """Whole numbers of a learned step size (LSQ)."""

    quantizer: Literal["lsq"] = "lsq"
    bits: EightBits
    per: Scale = "channel"

    @property
    def code_bits(self) -> int:
        return self.bits

    @property
    def level_table(self) -> tuple[int, ...]:
        return uniform_level_table(self.bits)


class LevelWeights(WeightSpec):
    """Entries of a level set, times a learned clipping threshold."""

    bits: FourBits
    per: Scale = "channel"

    @property
    @abstractmethod
    def level_set(self) -> LevelSet:
        """The levels."""

    @property
    def code_bits(self) -> int:
        return self.level_set.code_bits

    @property
    def level_table(self) -> tuple[float, ...]:
        return self.level_set.level_table


class PostWeights(LevelWeights):
    """Powers of the square root of two: the paper's Eq. 17, on a grid of integers."""

    quantizer: Literal["post"] = "post"
    grid: Literal["7/5", "17/12", "exact"] = Field(
        default=DEFAULT_GRID,
        description="the fraction that stands for √2: `7/5` (1% off, small integers, faster), `17/12` (0.2% off), "
        "`exact` (not for integers)",
    )
    levels: Levels = "codes"

    @property
    def level_set(self) -> LevelSet:
        return post_levels(self.bits, grid=self.grid, printed=self.levels == "printed")

    def options(self) -> list[str]:
        return [self.grid, *super().options(), *_printed(self.levels)]

    @model_validator(mode="after")
    def _fits_int8(self):
        if (self.bits, self.grid, self.levels) == (4, "17/12", "printed"):
            raise ValueError("the printed 4-bit levels do not fit in int8 on the grid 17/12: choose 7/5 or exact")
        return self


class PotWeights(LevelWeights):
    """Powers of two: Eq. 3."""

    quantizer: Literal["pot"] = "pot"
    levels: Levels = "codes"

    @property
    def level_set(self) -> LevelSet:
        return pot_levels(self.bits, printed=self.levels == "printed")

    def options(self) -> list[str]:
        return [*super().options(), *_printed(self.levels)]


class ApotWeights(LevelWeights):
    """Additive powers of two (Li et al. 2020)."""

    quantizer: Literal["apot"] = "apot"
    normalize: bool = Field(default=False, description="its weight normalisation")

    @property
    def level_set(self) -> LevelSet:
        return apot_levels(self.bits)

    def options(self) -> list[str]:
        return [*super().options(), *(["normalized"] if self.normalize else [])]


def _printed(levels: str) -> list[str]:
    return ["printed levels"] if levels == "printed" else []


class AdapterSpec(Strict):
    """The module that adapts the step size to each input: Eq. 4."""

    hidden: int | str = Field(
        default="quarter",
        description=f"hidden units: a quarter of the channels, in linear layers at most {WIDEST_QUARTER}; or a number",
        json_schema_extra={
            "anyOf": [{"const": "quarter"}, {"type": "integer", "minimum": 1, "maximum": MOST_HIDDEN}],
        },
    )
    bits: Literal[8, "float"] = Field(default=8, description="bits of the adapter's weights")
    output: Literal["reciprocal", "relu"] = Field(
        default="reciprocal",
        description="`reciprocal`: beta = 1 + t, for t below zero 1 / (1 - t); `relu`: the paper's form, which can die",
    )

    def widths(self, channels: int) -> tuple[int, ...]:
        """Return the widths from its input to beta: each neighbouring pair is a linear layer.

        >>> AdapterSpec().widths(64), AdapterSpec().widths(4), AdapterSpec(hidden=8).widths(64)
        ((64, 16, 1), (4, 1), (64, 8, 1))
        """
        if channels < NARROW:
            return channels, 1
        return channels, self.hidden if isinstance(self.hidden, int) else channels // HIDDEN_RATIO, 1

    def bounded(self, kind: str, channels: int) -> AdapterSpec:
        """Return what a new layer gets: `quarter` is a number where it would make the adapter larger than the layer.

        Not a matter of `widths`: runs from before the bound hold `quarter`, and mean it.

        >>> str(AdapterSpec().bounded("linear", 25_088)), str(AdapterSpec().bounded("conv", 4_096))
        ('hidden 512', 'hidden quarter')
        """
        wide = kind == "linear" and channels // HIDDEN_RATIO > WIDEST_QUARTER
        return self.model_copy(update={"hidden": WIDEST_QUARTER}) if wide and self.hidden == "quarter" else self

    def __str__(self) -> str:
        options = ["float"] if self.bits == "float" else []
        options += ["relu"] if self.output == "relu" else []
        return ", ".join([f"hidden {self.hidden}", *options])

    @field_validator("hidden")
    @classmethod
    def _quarter_or_units(cls, value: int | str) -> int | str:
        if value != "quarter" and not (isinstance(value, int) and 1 <= value <= MOST_HIDDEN):
            raise ValueError(f"choose quarter or a number of units from 1 to {MOST_HIDDEN}")
        return value


class ActivationSpec(QuantizerSpec):
    """What quantizes the input of a layer."""


class LsqActivations(ActivationSpec):
    """One learned step size for all inputs."""

    quantizer: Literal["lsq"] = "lsq"
    bits: EightBits


class AsqActivations(ActivationSpec):
    """A learned step size times a factor that an adapter computes from each input."""

    quantizer: Literal["asq"] = "asq"
    bits: EightBits
    adapter: AdapterSpec = AdapterSpec()
    dequantize_by: Literal["adapted_step_size", "step_size"] = Field(
        default="adapted_step_size",
        description="the step size that turns codes into values; `step_size`: Eq. 6 as printed",
    )

    def options(self) -> list[str]:
        return ["Eq. 6"] if self.dequantize_by == "step_size" else []


class PactActivations(ActivationSpec):
    """One learned clipping threshold (Choi et al. 2018)."""

    quantizer: Literal["pact"] = "pact"
    bits: EightBits


class OffsetActivations(ActivationSpec):
    """A learned step size and a learned offset, a whole number of steps (Bhalgat et al. 2020)."""

    quantizer: Literal["lsq+"] = "lsq+"
    bits: EightBits


AnyLevelWeights = PostWeights | PotWeights | ApotWeights
AnyWeightSpec = UniformWeights | AnyLevelWeights
AnyActivationSpec = LsqActivations | AsqActivations | PactActivations | OffsetActivations


class LayerSpec(Strict):
    """How one layer is quantized.

    Attributes:
        name: as in `named_modules`.
        weights, activations: None for float.
        signed: can the layer's input be negative? None while it has not been observed.
    """

    name: str
    kind: Literal["conv", "depthwise", "linear"]
    weights: Annotated[AnyWeightSpec, Field(discriminator="quantizer")] | None
    activations: Annotated[AnyActivationSpec, Field(discriminator="quantizer")] | None
    signed: bool | None = None

    @property
    def adapter(self) -> AdapterSpec | None:
        """What adapts the step size of the layer's input, in ASQ."""
        return self.activations.adapter if isinstance(self.activations, AsqActivations) else None

    def with_adapter(self, adapter: AdapterSpec) -> LayerSpec:
        """Return the spec with another adapter, of a layer that has one."""
        assert isinstance(self.activations, AsqActivations)
        return self.model_copy(update={"activations": self.activations.model_copy(update={"adapter": adapter})})
