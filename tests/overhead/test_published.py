import pytest
from torch import nn

from asqcli.overhead.adapters import adapter_parameters, adapter_products
from asqcli.overhead.count import count_model, count_network
from asqcli.overhead.published import equivalent_operations, percent, published_cost, quantized_bytes

TABLE_1 = {8: (2.67, 0.04), 4: (5.34, 0.07), 3: (7.11, 0.10), 2: (10.67, 0.14)}


@pytest.fixture(scope="module")
def resnet18():
    return count_model("resnet18", 224)


@pytest.mark.parametrize("bits", TABLE_1)
def test_table_1_to_the_digit(resnet18, bits):
    cost = published_cost(resnet18, bits)
    assert (round(cost.param_percent, 2), round(cost.compute_percent, 2)) == TABLE_1[bits]


def test_what_is_counted_in_resnet18(resnet18):
    """A second form: ResNet-18's shapes written out, from its paper rather than from the module tree."""
    inputs = [64] * 5 + [64, 128, 128, 128, 128, 256, 256, 256, 256, 512, 512, 512] + [64, 128, 256]
    middle = resnet18.middle
    downsamples = [layer for layer in middle if "downsample" in layer.name]
    assert len(middle) == 19 and [layer.in_channels for layer in downsamples] == [64, 128, 256]
    expected = sorted(inputs[1:])
    assert sorted(layer.in_channels for layer in middle) == expected
    by_hand = sum(c * (c // 4) + c // 4 + c // 4 + 1 for c in expected)
    assert sum(adapter_parameters(layer) for layer in middle) == by_hand == 307_091
    assert 2 * sum(adapter_products(layer) for layer in middle) == 2 * 306_112
    assert sum(layer.out_channels for layer in middle) == 4_736
    cost = published_cost(resnet18, 8)
    assert cost.adapter_bytes == 307_091 + 4_736 + 19 and cost.network_bytes == 11_689_512
    assert cost.network_operations == 1_695_547_392 / 4


def test_a_network_of_three_layers_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    cost = published_cost(count_network(model, 5), 4)
    assert cost.adapter_bytes == (8 * 2 + 2) + (2 * 1 + 1) + 4 + 1
    assert cost.network_bytes == (8 * 3 + 8 + 4 * 8 * 9 + 4 * 2 + 2) / 2
    assert cost.network_operations == 9 * 4 * 8 * 9 / 8
    assert cost.adapter_operations == 2 * (16 + 2) / 4


def test_a_module_that_runs_twice_has_one_adapter_that_runs_twice():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.shared, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.shared(self.shared(self.stem(x))).mean((2, 3)))

    cost = published_cost(count_network(Shared(), 5), 8)
    assert cost.adapter_bytes == 21 + 8 + 1
    assert cost.adapter_operations == 2 * (2 * 18) / 4


def test_networks_without_a_middle_cost_nothing_more():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    cost = published_cost(count_network(model, 2), 2)
    assert (cost.param_percent, cost.compute_percent) == (0, 0)


def test_equations_14_to_16():
    assert quantized_bytes(1000, 3) == 375
    assert (equivalent_operations(1000, 8), equivalent_operations(1000, 4)) == (1000 / 4, 1000 / 8)
    assert percent(1, 8) == 12.5 and percent(1, 0) == 0
