"""How images reached a network when it was measured, and who said so: shown beside every accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from asqcli.recipe.defaults import PREPROCESSING


class Preprocessing(Protocol):
    """The `data` of a recipe, or the `input` of an exported file."""

    @property
    def image_size(self) -> int: ...

    @property
    def resize(self) -> int: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...


def described(preprocessing: Preprocessing, origins: Mapping[str, str] | str) -> dict[str, Any]:
    """Return the preprocessing as it stands in a JSON document.

    Args:
        origins: where each of its values came from, or all of them.
    """
    sources = [origins] if isinstance(origins, str) else list(dict.fromkeys(origins[key] for key in PREPROCESSING))
    return {
        "image_size": preprocessing.image_size,
        "resize": preprocessing.resize,
        "interpolation": "bilinear",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "from": ", ".join(sources),
    }


def in_words(preprocessing: dict[str, Any]) -> str:
    """Return what `described` gives, for people.

    >>> in_words({"image_size": 24, "resize": 28, "interpolation": "bilinear", "mean": [0.5], "std": [0.25],
    ...           "from": "--set"})
    'shorter side 28 pixels (bilinear), of which 24x24, mean 0.5, std 0.25 (from --set)'
    """
    size, resize = preprocessing["image_size"], preprocessing["resize"]
    mean, std = (" ".join(f"{value:g}" for value in preprocessing[key]) for key in ("mean", "std"))
    return (
        f"shorter side {resize} pixels ({preprocessing['interpolation']}), of which {size}x{size}, "
        f"mean {mean}, std {std} (from {preprocessing['from']})"
    )


def guess(origins: Mapping[str, str]) -> str | None:
    """Return a note where the preprocessing of a float network is a guess, None where somebody said what it is."""
    guessed = [key for key in PREPROCESSING if origins[key] == "defaults"]
    if not guessed:
        return None
    keys = ", ".join(f"`data.{key}`" for key in guessed)
    return (
        f"note: {keys} are guessed, these weights do not say how they were trained; another preprocessing can cost all "
        "accuracy: say it with --set KEY=VALUE, or --recipe"
    )
