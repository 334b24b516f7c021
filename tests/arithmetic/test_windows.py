"""Windows of pools along one side."""

import pytest

from asqcli.arithmetic.windows import adaptive_windows, sliding_windows


@pytest.mark.parametrize("pixels", range(1, 9))
@pytest.mark.parametrize("windows", range(1, 12))
def test_adaptive_windows_cover_the_side_and_are_never_empty(pixels, windows):
    found = adaptive_windows(pixels, windows)
    assert len(found) == windows and all(first < end for first, end in found)
    assert {i for first, end in found for i in range(first, end)} == set(range(pixels))


@pytest.mark.parametrize("pixels", [1, 4, 7])
@pytest.mark.parametrize(("length", "stride", "border"), [(1, 1, 0), (1, 1, 2), (3, 2, 1), (2, 3, 1), (5, 1, 4)])
def test_sliding_windows_see_the_pixels_of_the_image(pixels, length, stride, border):
    if pixels + 2 * border < length:
        return
    side = [None] * border + list(range(pixels)) + [None] * border
    expected = [[i for i in side[at : at + length] if i is not None] for at in range(0, len(side) - length + 1, stride)]
    assert [list(range(*window)) for window in sliding_windows(pixels, length, stride, border)] == expected
