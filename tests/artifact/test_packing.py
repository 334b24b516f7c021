"""Codes survive packing, and lie where the format says."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asqcli.artifact.packing import pack, packed_size, unpack


@given(st.integers(1, 8), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_codes_round_trip(bits, count, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (packed_size(count, bits),)
    assert np.array_equal(unpack(packed, bits, count), codes)


@given(st.integers(1, 8), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_the_layout_is_a_number_in_base_2_to_the_bits(bits, count, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.uint8)
    number = sum(int(code) << (bits * place) for place, code in enumerate(codes))
    assert pack(codes, bits).tobytes() == number.to_bytes(packed_size(count, bits), "little")
