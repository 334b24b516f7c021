"""What training minimizes: cross-entropy, with label smoothing or a teacher where a recipe asks for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asqcli.nn.forward import forward_in_evaluation


class Objective:
    """A loss of a batch.

    Args:
        label_smoothing: share of the target that is spread over all classes.
        teacher: another network in evaluation mode, or None.
        weight: share of the loss that is the distance from the teacher.
        temperature: that both networks' logits are divided by for it (Hinton et al. 2015).
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        teacher: nn.Module | None = None,
        weight: float = 0.5,
        temperature: float = 4.0,
    ) -> None:
        self.label_smoothing, self.teacher, self.weight, self.temperature = (
            label_smoothing,
            teacher,
            weight,
            temperature,
        )

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """Return the mean loss, (). `logits`: (N, classes); `labels`: (N,); `images`: (N, 3, H, W), for the teacher."""
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            target = F.log_softmax(forward_in_evaluation(self.teacher, images) / self.temperature, dim=1)
        distance = F.kl_div(
            F.log_softmax(logits / self.temperature, dim=1), target, reduction="batchmean", log_target=True
        )
        # The square of the temperature keeps the gradient's size when it is changed.
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * distance
