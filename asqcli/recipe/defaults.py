"""Defaults that depend on the data and the model, below the recipe, the flags and `--set`.

They make `asq quantize resnet18` on the digits a matter of minutes, and give a folder of one's own a sensible first
run. cli/USAGE.md tables them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

PREPROCESSING = ("image_size", "resize", "mean", "std")  # keys of `data`
DEFAULT_DATA = "digits"
DEFAULT_SCHEME = "post"
DEFAULT_BITS = 4

RESIZE_RATIO = 256 / 224  # the usual margin of the centre crop

# Kinds of networks by how fast they can be trained. Deep ones are of libraries: most shrink 32 pixels to a single one.
Network = Literal["usual", "deep", "without norms"]


@dataclass(frozen=True)
class Rate:
    """How a phase steps: keys of `train` and of `train.warmup`."""

    lr: float
    optimizer: str = "sgd"
    lr_ramp_steps: int = 0


@dataclass(frozen=True)
class Schedule:
    """How to train on one kind of data: `rate` for quantized training, the others for the float phase before.

    Attributes:
        warmup_epochs, warmup_rate: of a network that starts at random.
        finetune_epochs, finetune_rate: of one that has weights, but for its head.
    """

    epochs: int
    batch_size: int
    rate: Rate
    warmup_epochs: int
    warmup_rate: Rate
    finetune_epochs: int
    finetune_rate: Rate
    augment: str


_BY_KIND = {
    "digits": Schedule(5, 64, Rate(0.02), 15, Rate(0.05), 5, Rate(0.01), "shift"),
    "cifar": Schedule(300, 128, Rate(0.04), 100, Rate(0.1), 20, Rate(0.01), "shift_flip"),
    "small": Schedule(10, 128, Rate(0.01), 30, Rate(0.05), 8, Rate(0.005), "shift_flip"),
    "large": Schedule(10, 32, Rate(0.005), 30, Rate(0.025), 8, Rate(0.002), "resized_crop"),
}
OWN_IMAGES = ("small", "large")
HEAD_RATE = 10.0  # rate of a new head beside weights that were trained, in units of theirs

# Without labels the float network is followed, by statistics that training does not move.
UNLABELLED_EPOCHS, UNLABELLED_BATCH_SIZE, UNLABELLED_RATE = 10, 32, Rate(2e-4, "adamw")
UNLABELLED = {"distillation": {"weight": 1.0}, "batch_norm": "frozen"}

# The answers of the float network tell more of few images than their labels do: EfficientNet-Lite0 with LSQ at 4 bits
# lost 2.6 and 6.5 points to its float network on 245 photos without them (two seeds), 0.7 and 3.9 with them.
TAUGHT = {"distillation": {"weight": 0.5}}

# With so many bits a calibrated network is nearly as good as float, and steps as wide as fewer bits need lead away from
# there. EfficientNet-Lite0, fine-tuned on photos, lost 2.0 points at a tenth of the rate and none at a hundredth.
NEARLY_FLOAT_BITS, NEARLY_FLOAT_RATE = 8, 1 / 100

RAMP_STEPS = 25  # about an epoch of the digits
ADAMW = Rate(5e-4, "adamw", RAMP_STEPS)
# Where strides call for images beyond this size. Inception-V3 had 94.7% of the digits after 15 epochs, 98.1 after 20.
DIGITS_IMAGE_SIZE, DIGITS_LARGE_WARMUP_EPOCHS = 32, 20
DIGITS_DEEP, DIGITS_DEEP_WARMUP = Rate(0.005, "sgd", RAMP_STEPS), Rate(0.01, "sgd", RAMP_STEPS)


def defaults(
    kind: str,
    image_size: int,
    network: Network,
    *,
    train: Mapping[str, Any],
    bits: int | None,
    pretrained: bool,
    labels: bool = True,
) -> dict[str, Any]:
    """Return the raw recipe that everything else is laid over.

    Args:
        kind: of the data: digits, cifar, small or large.
        image_size: a sensible size for the data and the model, pixels.
        train: what is said of training already.
        bits: of weights and activations, the fewer; None for a float baseline, which then trains as the phase before
            quantization would.
        pretrained: are weights sure to be there, at least all but the head's?
        labels: do the images have labels that count?
    """
    schedule = _BY_KIND[kind]
    if kind == "digits" and network == "deep" and image_size > DIGITS_IMAGE_SIZE:
        schedule = replace(schedule, warmup_epochs=DIGITS_LARGE_WARMUP_EPOCHS)
    rate, warmup_rate = _rates(kind, network)
    usual, usual_warmup = schedule.rate, schedule.warmup_rate
    epochs, batch_size = schedule.epochs, schedule.batch_size
    if not labels:
        epochs, batch_size, rate = UNLABELLED_EPOCHS, UNLABELLED_BATCH_SIZE, UNLABELLED_RATE
    elif bits is None and pretrained:
        epochs, rate, usual = schedule.finetune_epochs, schedule.finetune_rate, schedule.finetune_rate
    elif bits is None:
        epochs, rate, usual = schedule.warmup_epochs, warmup_rate, usual_warmup
    rate_keys = _rate_keys(rate, usual, train)
    if bits is not None and bits >= NEARLY_FLOAT_BITS and kind != "cifar":  # there the paper's schedule holds
        epochs = math.ceil(epochs / 3)
        rate_keys |= {"lr": rate_keys["lr"] * NEARLY_FLOAT_RATE} if "lr" in rate_keys else {}
    teaching: dict[str, Any] = {} if labels else UNLABELLED
    few_bits = bits is not None and bits < NEARLY_FLOAT_BITS
    if labels and few_bits and kind in OWN_IMAGES and "lr" not in train:
        teaching = TAUGHT
    resize = round(image_size * RESIZE_RATIO) if schedule.augment == "resized_crop" else image_size
    values: dict[str, Any] = {
        "data": {
            "image_size": image_size,
            "resize": resize,
            "augment": schedule.augment,
            "padding": max(1, image_size // 8),
        },
        "train": {
            "epochs": epochs,
            "batch_size": batch_size,
            **rate_keys,
            **teaching,
            "warmup": {
                "epochs": schedule.warmup_epochs,
                **_rate_keys(warmup_rate, usual_warmup, train.get("warmup")),
            },
        },
    }
    tuned = train.get("finetune")
    if "warmup" not in train or tuned is not None:  # a recipe from before there was fine-tuning means its warm-up
        rate_stated = isinstance(tuned, dict) and "lr" in tuned
        values["train"]["finetune"] = {
            "epochs": schedule.finetune_epochs,
            **_rate_keys(schedule.finetune_rate, schedule.finetune_rate, tuned),
            **({} if rate_stated else {"head_rate": HEAD_RATE}),
        }
    return values


def _rates(kind: str, network: Network) -> tuple[Rate, Rate]:
    """Return how a network is trained quantized and, before that, from random weights."""
    schedule = _BY_KIND[kind]
    if network == "without norms":
        # SqueezeNet stayed near guessing by SGD at six rates, and at 66% of the digits by AdamW without the ramp.
        return (ADAMW if kind == "digits" else schedule.rate), ADAMW
    if network == "deep" and kind == "digits":
        return DIGITS_DEEP, DIGITS_DEEP_WARMUP
    return schedule.rate, schedule.warmup_rate


def _rate_keys(rate: Rate, usual: Rate, stated: object) -> dict[str, Any]:
    """Return the keys of a phase's rate, or of the one that goes with the optimizer that is stated.

    None where a rate is stated: it is then SGD's, without a ramp, unless more is said.
    """
    if not isinstance(stated, dict):
        return asdict(rate)
    if "lr" in stated:
        return {}
    if stated.get("optimizer", rate.optimizer) == rate.optimizer:
        return asdict(rate)
    return asdict(ADAMW if stated["optimizer"] == "adamw" else usual)
