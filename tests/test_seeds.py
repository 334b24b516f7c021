import random

import numpy as np
import torch

from asqcli.seeds import generator_states, held_generators, seed_everything


def draw():
    return torch.rand(()).item(), np.random.rand(), random.random()


def test_the_three_generators_are_one_function_of_the_numbers():
    seed_everything(3, 1)
    first, states = draw(), generator_states()
    seed_everything(3, 2)
    assert all(a != b for a, b in zip(first, draw(), strict=True))
    seed_everything(3, 1)
    assert draw() == first and generator_states() == states


def test_held_generators_go_on_from_where_they_stood():
    seed_everything(0)
    expected = draw()
    seed_everything(0)
    with held_generators():
        seed_everything(9)
        draw()
    assert draw() == expected


def test_a_draw_from_any_of_the_three_is_seen():
    for one in (lambda: torch.rand(1), lambda: np.random.permutation(3), lambda: random.choice("abc")):
        before = generator_states()
        assert generator_states() == before
        one()
        assert generator_states() != before
