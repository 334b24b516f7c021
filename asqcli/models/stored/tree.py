"""A weights file as one tree: keys of dicts inside dicts, and the parts of dotted names, are its branches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from asqcli.models.state import is_extra, versions_in
from asqcli.models.stored.stand_ins import Array

Place = tuple[str, ...]  # keys and parts of a name, from the outside in

DEEPEST = 12  # parts of a place that a state dict may stand under


class Tree:
    """The content of a file by places.

    Attributes:
        values: what is no dict, by place.
        odd_names: of dicts that name a tensor by something else than text, their places, each to (that name,).
    """

    def __init__(self, content: Mapping[Any, Any]) -> None:
        self.values: dict[Place, Any] = {}
        self.odd_names: dict[Place, tuple[object]] = {}
        self._dicts: dict[Place, Place] = {}  # places of values to those of the dicts that hold them
        self._versions: dict[Place, int] = {}  # modules' versions
        self._add(content, ())

    def _add(self, content: Mapping[Any, Any], place: Place) -> None:
        for module, version in versions_in(content).items():
            self._versions[(*place, *(module.split(".") if module else ()))] = version
        for key, value in content.items():
            if not isinstance(key, str):
                if isinstance(value, Tensor):
                    self.odd_names.setdefault(place, (key,))
                continue
            inside = (*place, *key.split("."))
            if isinstance(value, Mapping) and not is_extra(key):
                if len(inside) <= DEEPEST:  # a pickle may hold a dict in itself
                    self._add(value, inside)
                continue
            array = value.tensor() if isinstance(value, Array) else None
            self.values.setdefault(inside, value if array is None else array)
            self._dicts.setdefault(inside, place)

    def branches(self) -> dict[Place, dict[str, Any]]:
        """Return the places with tensors under them, each with all values there by what follows of their names."""
        found: dict[Place, dict[str, Any]] = defaultdict(dict)
        for place, value in self.values.items():
            for depth in range(min(len(place), DEEPEST)):
                found[place[:depth]][".".join(place[depth:])] = value
        return {p: named for p, named in found.items() if any(isinstance(v, Tensor) for v in named.values())}

    def dict_around(self, place: Place) -> Place:
        """Return the place of the dict in which the names under `place` stand."""
        return min((self._dicts[p] for p in self.values if _under(p, place)), key=len)

    def beside(self, places: list[Place]) -> list[str]:
        """Return the names of tensors in the dict around the first of `places` that are under none of them."""
        around = self.dict_around(places[0])
        return [
            ".".join(p[len(around) :])
            for p, value in self.values.items()
            if self._dicts[p] == around and isinstance(value, Tensor) and not any(_under(p, place) for place in places)
        ]

    def versions_under(self, place: Place, rename: Callable[[str], str]) -> dict[str, int]:
        """Return the versions of the modules under a place, by their names there as `rename` makes them."""
        inside = {p[len(place) :]: version for p, version in self._versions.items() if _under(p, place)}
        return {rename(".".join(module)): version for module, version in inside.items()}


def _under(place: Place, other: Place) -> bool:
    return place[: len(other)] == other
