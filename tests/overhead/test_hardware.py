from fractions import Fraction

import pytest
from torch import nn

from asqcli.overhead.count import count_network
from asqcli.overhead.hardware import Operations, float_operations, shift_share, weight_operations
from asqcli.quant.levels import apot_levels, post_levels, pot_levels


def small_network():
    """Multiply-adds on 4x4 pixels: 16 * 24 at the start, 16 * 140 in the middle, 20 at the end."""
    return count_network(
        nn.Sequential(
            nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 10, 1), nn.Conv2d(10, 6, 1, bias=False),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
        ),
        4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("levels", "share"),
    [
        (post_levels(4), Fraction(4, 7)),  # 40, 20, 10, 5 of seven
        (post_levels(4, grid="17/12"), Fraction(4, 7)),
        (post_levels(3), Fraction(2, 3)),
        (post_levels(2), 1),
        (pot_levels(4), 1),
        (apot_levels(4), Fraction(1, 7)),  # 10 only: 5 is no level
        (apot_levels(3), 1),
    ],
)
def test_shares_of_shifts(levels, share):
    assert shift_share(levels.magnitudes) == share


def test_only_whole_powers_of_two_are_shifts():
    assert shift_share((8, 7, 6, 5, 4, 3, 2, 1)) == Fraction(4, 8)  # 8/3 is no shift, though 8 is a power of two


def test_operations_by_hand():
    ends, middle = 16 * 24 + 12, 16 * 140
    kinds = weight_operations(small_network(), 4)
    assert kinds == {
        "post": Operations(middle * 4 // 7, middle - middle * 4 // 7, ends, ends + middle),
        "pot": Operations(middle, 0, ends, ends + middle),
        "apot": Operations(middle // 7, middle - middle // 7, ends, ends + middle),
        "uniform": Operations(0, 0, ends + middle, ends + middle),
    }
    assert middle * 4 % 7 == 0
    assert list(weight_operations(small_network(), 5)) == ["uniform"]


def test_float_operations_by_hand():
    cost = float_operations(small_network())
    # 8 channels: 8 means, 8 x 2 and 2 x 1 products, 3 scales, the step; 10 channels: 10, 10 x 2 and 2 x 1, 3, 1
    assert cost.adapter_multiplications == (8 + 18 + 3 + 1) + (10 + 22 + 3 + 1)
    assert cost.adapter_additions == (8 * 16 + 18 + 3) + (10 * 16 + 22 + 3)
    inputs, outputs = 16 * (3 + 8 + 10) + 6, 16 * (8 + 10 + 6) + 2
    assert cost.epilogue_multiplications == inputs + outputs + 16 * 8
    assert cost.epilogue_additions == 16 * 10 + 2 + 16 * 8


def test_an_adapter_of_a_vector_needs_no_means():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 4), nn.Linear(4, 2))
    cost = float_operations(count_network(model, 2))
    assert (cost.adapter_multiplications, cost.adapter_additions) == (18 + 3 + 1, 18 + 3)
