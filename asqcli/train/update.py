"""The update of a training step: each parameter by its gradient, step sizes within their bounds."""

from __future__ import annotations

from torch.optim import Optimizer

from asqcli.nn.step_sizes import bounded_steps
from asqcli.train.optimizer import rates_are_tensors, set_rate
from asqcli.train.passes import Passes, ReplayedPasses


class Update:
    """What an optimizer does with the gradients of `passes`; replayed from a recording where those are.

    An update is some hundred small parameters, of which a GPU takes care at once: most of its time is Python's.
    """

    def __init__(self, optimizer: Optimizer, passes: Passes | ReplayedPasses) -> None:
        self.optimizer, self.passes = optimizer, passes

    def __call__(self, lr: float) -> None:
        """Move the parameters that have gradients at a learning rate, in which each group has its share."""
        set_rate(self.optimizer, lr)
        if isinstance(self.passes, ReplayedPasses) and rates_are_tensors(self.optimizer):
            self.passes.follow_up(self._move)
        else:
            self._move()

    def _move(self) -> None:
        with bounded_steps(self.passes.model):
            self.optimizer.step()
