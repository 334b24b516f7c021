import pytest

from asqcli.errors import BoundsError
from asqcli.quant.bounds import integer_bounds


def test_every_width_holds_all_its_codes():
    for bits in range(2, 9):
        for signed in (False, True):
            qmin, qmax = integer_bounds(bits, signed=signed)
            assert qmax - qmin + 1 == 2**bits
            assert (qmin < 0) == signed


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 32])
def test_other_widths_are_refused(bits):
    with pytest.raises(BoundsError, match="choose 2 to 8"):
        integer_bounds(bits, signed=False)
