"""Statistics that lag behind the weights."""

import pytest
import torch
from torch import nn

from asqcli.train.batch_norm import lagging_norms, reestimate_batch_norm, updated_norms


def test_batch_norm_gets_the_plain_average_over_the_batches():
    model = nn.Sequential(nn.BatchNorm2d(2, momentum=0.3), nn.Dropout(0.5)).eval()
    batches = [torch.randn(8, 2, 3, 3) * 2 + k for k in range(4)]
    reestimate_batch_norm(model, batches)
    torch.testing.assert_close(model[0].running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0))
    torch.testing.assert_close(model[0].running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0))
    assert model[0].momentum == 0.3 and not model[0].training


def test_an_estimate_that_is_interrupted_changes_nothing():
    model = nn.Sequential(nn.BatchNorm2d(2, momentum=0.01))
    model(torch.randn(8, 2, 3, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def batches():
        yield torch.randn(8, 2, 3, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reestimate_batch_norm(model, batches())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model[0].momentum == 0.01 and model[0].training


class HeldNorm(nn.Sequential):
    """Its author keeps the second norm in evaluation; `train` returns nothing."""

    def train(self, mode=True):
        super().train(mode)
        self[1].training = False


def test_norms_that_their_author_holds_still_are_left_alone():
    model = HeldNorm(nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.BatchNorm2d(2, momentum=0.0))
    model.train()
    assert updated_norms(model) == [model[0]]
    reestimate_batch_norm(model, [torch.randn(8, 2, 3, 3) + 5])
    moved = [bool((norm.running_mean != 0).any()) for norm in model]
    assert moved == [True, False, False]


def test_slow_norms_lag_always_and_usual_ones_while_a_fresh_network_settles():
    usual, slow, cumulative = (nn.BatchNorm2d(2, momentum=m) for m in (0.1, 0.01, None))
    model = nn.Sequential(usual, slow, cumulative)

    def lagging(steps, from_scratch):
        return lagging_norms(model, steps=steps, from_scratch=from_scratch)

    assert lagging(10**6, True) == lagging(10**6, False) == lagging(1, False) == [slow, cumulative]
    assert lagging(29, True) == [usual, slow, cumulative] and usual not in lagging(30, True)
