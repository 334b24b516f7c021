"""What training tells while it runs. Library code never prints: the command line, or you, implement this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a reporter can be had without torch
    from asqcli.measures import Measure
    from asqcli.quant.spec import LayerSpec


class Reporter:
    """Hears what happens; this one keeps silent. Override what you want to hear."""

    def note(self, text: str) -> None:
        """A decision that the user should know of, one line."""

    def plan(self, specs: list[LayerSpec]) -> None:
        """How each layer is about to be quantized."""

    def measures(self, measure: Measure) -> None:
        """What top1 means in what follows; accuracy where this is never called."""

    def phase(self, name: str, *, epochs: int, steps: int, first: int) -> None:
        """A phase of `steps` steps in `epochs` epochs starts, or goes on from step `first`."""

    def step(self, *, epoch: int, images: int, loss: float, top1: float) -> None:
        """A step of `images` images is done; loss and top1 (percent) are running means over the epoch."""

    def epoch(self, record: dict[str, Any]) -> None:
        """An epoch is done; `record` is its line of metrics.jsonl."""
