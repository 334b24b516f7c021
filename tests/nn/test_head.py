import pytest
import torch
from torch import nn

from asqcli.nn.head import find_head, replace_head

IMAGE = torch.zeros(1, 3, 8, 8)


class HeadFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.auxiliary = nn.Linear(4, 5), nn.Linear(4, 5, bias=False)
        self.same_width, self.conv = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 3, stride=2)

    def forward(self, x):
        x = self.conv(self.same_width(x)).relu().mean((2, 3))
        logits = self.fc(x)
        self.auxiliary(x)  # runs later, and makes nothing of the logits
        return logits * 2


class ConvHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3)
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(4, 5, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x):
        return self.classifier(self.features(x)).flatten(1)


class Twice(nn.Module):
    """One head under two names."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.parts = nn.ModuleList([self.conv, self.head])

    def forward(self, x):
        return self.parts[1](self.conv(x).mean((2, 3)))


class Counts(HeadFirst):
    """Would fail with any other number of classes."""

    def forward(self, x):
        return super().forward(x).reshape(len(x), 5)


class Sum(HeadFirst):
    """Has two heads."""

    def forward(self, x):
        x = self.conv(self.same_width(x)).mean((2, 3))
        return self.fc(x) + self.auxiliary(x)


@pytest.mark.parametrize(("network", "head"), [(HeadFirst, "fc"), (ConvHead, "classifier.1"), (Twice, "head")])
def test_the_head_is_the_layer_that_makes_the_logits(network, head):
    model = network().eval()
    old = model.get_submodule(head)
    assert find_head(model, IMAGE) == head
    assert replace_head(model, IMAGE, 2) == head
    assert model(IMAGE).shape == (1, 2)
    new = model.get_submodule(head)
    assert type(new) is type(old) and (new.bias is None) == (old.bias is None) and not new.training
    assert old not in set(model.modules())


@pytest.mark.parametrize("network", [Counts, Sum])
def test_a_network_that_goes_on_with_its_own_number_stays_as_it_is(network):
    model = network()
    before = list(model.modules())
    assert replace_head(model, IMAGE, 2) is None
    assert list(model.modules()) == before and model(IMAGE).shape == (1, 5)


def test_a_head_with_hooks_stays():
    model = HeadFirst()
    model.fc.register_forward_hook(lambda *_: None)
    assert replace_head(model, IMAGE, 2) is None and model.fc.out_features == 5


@pytest.mark.parametrize("forward", [lambda x: (x, x), lambda x: torch.zeros(1, 5), lambda x: x.flatten(1)[:, :5]])
def test_logits_of_no_layer(forward):
    class Net(nn.Module):
        def forward(self, x):
            return forward(x)

    assert find_head(Net(), IMAGE) is None and replace_head(Net(), IMAGE, 2) is None
