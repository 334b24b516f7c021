"""Sums, means and largest values along dimensions and of several values: exported, equal to the bit."""

import pytest
import torch
from torch.nn import functional as F

from tests.export.between import SIZE, assert_exported, refusal


def branches(x):
    return [x, F.relu(x), F.silu(x) * 0.5]


def halves(x):
    return x.view(x.size(0), 2, 3, SIZE, SIZE)


MADE = {
    "sum of a stack": lambda x: torch.stack(branches(x)).sum(0) + torch.stack(branches(x), dim=1).sum(1),
    "mean of a stack": lambda x: torch.mean(torch.stack(branches(x)), dim=0) + torch.stack(branches(x), -1).mean(-1),
    "largest of a stack": lambda x: torch.stack(branches(x)).amax(0) + torch.stack([x, -x], dim=1).max(dim=1).values,
    "a stack unbound": lambda x: sum(torch.stack(branches(x)).unbind(0)),
    "groups": lambda x: halves(x).sum(1) + halves(x).mean(1) * halves(x).max(1)[0],
    "maxima and minima": lambda x: torch.maximum(x, x * 0.5) + torch.minimum(x, -x).minimum(x),
    "maxima with numbers": lambda x: torch.max(x, torch.tensor(-0.5)) + torch.minimum(torch.tensor([0.25]), x),
    "larger of two halves": lambda x: torch.max(*x.chunk(2, dim=1)),
    "mean after mean": lambda x: x + x.mean(3, keepdim=True).mean(2, keepdim=True),
    "mean after mean, to features": lambda x: x.mean(-1).mean(-1)[:, :, None, None] * x,
    "mean of a flat image": lambda x: x * x.flatten(2).mean(-1, keepdim=True).unsqueeze(-1),
    "by numpy's name": lambda x: x * x.mean(axis=(2, 3), keepdim=True),
    "sum of all pixels": lambda x: x.sum((2, 3), keepdim=True) * 0.01 + x,
    "sum after sum": lambda x: x.sum(3).sum(2)[:, :, None, None] * 0.01 + x,
    "largest after largest": lambda x: x * x.max(-1, keepdim=True)[0].max(-2, keepdim=True)[0],
    "over channels": lambda x: torch.cat([x.mean(1, keepdim=True), x.max(1, True)[0], x.sum(dim=1, keepdim=True)], 1),
}
NOT_NATIVE = {
    "a stack joined": lambda x: torch.stack([x, F.relu(x)], dim=2).flatten(1, 2),
    "a stack of features": lambda x: torch.stack([x.mean((2, 3)), x.amax((2, 3))], 1).sum(1)[..., None, None] * x,
}
REFUSED = {
    "over images": (lambda x: x + x.sum(0), "it works along the batch"),
    "over all": (lambda x: x + x.mean((1, 2, 3), keepdim=True), "looks along one dimension, or over height and width"),
    "over nothing": (lambda x: x * x.sum(), "looks along one dimension, or over height and width"),
    "where": (lambda x: x + x.max(3, keepdim=True)[1], "it reads where the largest values lie"),
    "stacked before the images": (lambda x: torch.stack([x, x])[0], "`getitem` .* stacked before the images"),
    "constant first": (lambda x: torch.stack([torch.zeros_like(x), x], 1).sum(1), "something that is not the net"),
    "single numbers": (lambda x: x * torch.stack(x.mean((2, 3)).unbind(1), 1)[:, :, None, None], "single numbers"),
}


@pytest.mark.parametrize("chosen", MADE)
def test_exported_and_equal(chosen, tmp_path):
    assert_exported(MADE[chosen], tmp_path / "net.asq")


@pytest.mark.parametrize("chosen", NOT_NATIVE)
def test_a_stack_that_is_read_as_a_whole_runs_on_numpy(chosen, tmp_path):
    assert_exported(NOT_NATIVE[chosen], tmp_path / "net.asq", native=False)


@pytest.mark.parametrize("chosen", REFUSED)
def test_refused_with_the_reason(chosen, tmp_path):
    refusal(*REFUSED[chosen], tmp_path / "net.asq")
