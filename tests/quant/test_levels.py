import math
from fractions import Fraction

import pytest

from asqcli.errors import BoundsError
from asqcli.quant.levels import apot_levels, post_levels, pot_levels, uniform_level_table

POWER_SETS = [(make, bits) for make in (post_levels, pot_levels, apot_levels) for bits in (2, 3, 4)]


def test_post_on_each_grid_worked_by_hand():
    assert post_levels(4).magnitudes == (40, 28, 20, 14, 10, 7, 5)
    assert post_levels(3).magnitudes == (10, 7, 5)
    assert post_levels(2).magnitudes == (1,)
    assert post_levels(4, grid="17/12").magnitudes == (96, 68, 48, 34, 24, 17, 12)
    assert post_levels(3, grid="17/12").magnitudes == (24, 17, 12)
    assert post_levels(4, printed=True).magnitudes == (56, 40, 28, 20, 14, 10, 7, 5)


@pytest.mark.parametrize(("grid", "tolerance"), [("17/12", 0.0018), ("7/5", 0.0101), ("exact", 1e-12)])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_post_is_close_to_powers_of_the_square_root_of_two(bits, grid, tolerance):
    level_set = post_levels(bits, grid=grid)
    for k, magnitude in enumerate(level_set.magnitudes):
        assert magnitude / level_set.largest == pytest.approx(math.sqrt(2) ** -k, rel=tolerance)


@pytest.mark.parametrize("grid", ["17/12", "7/5"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_even_exponents_of_post_are_the_levels_of_pot(bits, grid):
    post = post_levels(bits, grid=grid)
    even = [Fraction(m, post.largest) for m in post.magnitudes[::2]]
    pot = pot_levels(bits)
    assert even == [Fraction(m, pot.largest) for m in pot.magnitudes][: len(even)]


def test_pot_and_apot_worked_by_hand():
    assert pot_levels(4).magnitudes == (64, 32, 16, 8, 4, 2, 1)
    assert pot_levels(3, printed=True).magnitudes == (8, 4, 2, 1)  # Eq. 3 at 3 bits: 2^-3 .. 1
    assert apot_levels(4).magnitudes == (10, 8, 6, 4, 3, 2, 1)
    assert apot_levels(3).magnitudes == pot_levels(3).magnitudes
    assert apot_levels(2).magnitudes == pot_levels(2).magnitudes == post_levels(2).magnitudes


def test_printed_sets_hold_two_to_the_bits_plus_one_levels():
    for level_set, bits in [(post_levels(4, grid="7/5", printed=True), 4), (pot_levels(3, printed=True), 3)]:
        assert len(level_set.magnitudes) == 2 ** (bits - 1)  # in both signs, and zero
        assert level_set.code_bits == bits + 1


@pytest.mark.parametrize(("make", "bits"), POWER_SETS)
def test_tables_name_every_level_once_and_fit_their_width(make, bits):
    level_set = make(bits)
    table = level_set.level_table
    assert len(table) == 2**bits == 2**level_set.code_bits
    assert table[0] == 0
    assert sorted(v for v in table if v) == sorted(s * m for m in level_set.magnitudes for s in (-1, 1))
    assert level_set.integer and all(-128 <= v <= 127 for v in table)
    assert level_set.magnitudes == tuple(sorted(set(level_set.magnitudes), reverse=True))


def test_uniform_tables_are_twos_complement():
    for bits in range(2, 9):
        table = uniform_level_table(bits)
        for code, value in enumerate(table):
            assert value % 2**bits == code and -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)


def test_exact_grid_is_not_for_integers():
    assert not post_levels(4, grid="exact").integer
    assert post_levels(2, grid="exact").integer  # ternary: nothing irrational in it


@pytest.mark.parametrize("bits", [1, 5, 8])
@pytest.mark.parametrize("make", [post_levels, pot_levels, apot_levels])
def test_widths_that_power_sets_do_not_have(make, bits):
    with pytest.raises(BoundsError, match="choose 2 to 4"):
        make(bits)


def test_sets_that_do_not_exist():
    with pytest.raises(BoundsError, match="7/5, 17/12, exact"):
        post_levels(4, grid="3/2")
    with pytest.raises(BoundsError, match="int8"):
        post_levels(4, grid="17/12", printed=True)
