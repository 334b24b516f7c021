"""Defaults that depend on the data and the model, below the recipe, the flags and `--set`.

They make `asq quantize resnet18` on the digits a matter of minutes, and give a folder of one's own a sensible first
run. The README tables them.
"""

from __future__ import annotations

DEFAULT_DATA = "digits"
DEFAULT_SCHEME = "post"
DEFAULT_BITS = 4

# kind of data: (epochs, batch size, lr), (warm-up epochs, warm-up lr), augmentation
_BY_KIND = {
    "digits": ((5, 64, 0.02), (15, 0.05), "shift"),
    "cifar": ((300, 128, 0.04), (100, 0.1), "shift_flip"),
    "small": ((30, 128, 0.01), (30, 0.05), "shift_flip"),
    "large": ((30, 64, 0.01), (30, 0.05), "resized_crop"),
}
RESIZE_RATIO = 256 / 224  # the usual margin of the centre crop


def defaults(kind: str, image_size: int, *, float_only: bool) -> dict:
    """Return the raw recipe that everything else is laid over.

    Args:
        kind: of the data: digits, cifar, small or large.
        image_size: a sensible size for the data and the model, pixels.
        float_only: is this a float baseline? It then trains as the warm-up would.
    """
    (epochs, batch_size, lr), (warmup_epochs, warmup_lr), augment = _BY_KIND[kind]
    if float_only:
        epochs, lr = warmup_epochs, warmup_lr
    resize = round(image_size * RESIZE_RATIO) if augment == "resized_crop" else image_size
    return {
        "data": {
            "image_size": image_size,
            "resize": resize,
            "augment": augment,
            "padding": max(1, image_size // 8),
        },
        "train": {
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "warmup": {"epochs": warmup_epochs, "lr": warmup_lr},
        },
    }
