"""Processes that decode: they last, work ahead of who asks by little, and leave nothing of a pass to the next."""

import gc
import itertools
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import shared_cache

from asqcli.data.decoders import Decoders
from asqcli.data.preprocessing import Preprocessing
from asqcli.errors import InputError, ran_out_of_memory

PREPROCESSING = Preprocessing(8, 10, (0.5,) * 3, (0.5,) * 3, "resized_crop", 1)


@pytest.fixture
def paths(tmp_path, write_image_folder):
    folder = write_image_folder(tmp_path, {"a": 6, "b": 6}, size=(16, 12))
    return sorted(str(path) for path in folder.glob("*/*.jpg"))


@pytest.fixture
def decoders():
    made = Decoders(PREPROCESSING, 2)
    yield made
    made.close()


def requests(paths, size=2, seed=None):
    return [[(path, seed) for path in paths[first : first + size]] for first in range(0, len(paths), size)]


def pids():
    return {child.pid for child in multiprocessing.active_children()}


def same(some, others):
    return len(some) == len(others) and all(map(torch.equal, some, others))


def test_pixels_are_the_same_with_and_without_processes(decoders, paths):
    here = Decoders(PREPROCESSING, 0)
    for seed in (None, (1, 2, 3)):
        batches = requests(paths, 5, seed)
        assert same(list(decoders.decode(batches)), list(here.decode(batches)))
    (first,) = here.decode([[(paths[0], None)]])
    assert first.shape == (1, 8, 8, 3) and np.array_equal(first[0], PREPROCESSING.evaluation_pixels(paths[0]))


def test_the_same_processes_serve_every_pass(decoders, paths):
    before = pids()
    decoders.start()
    started = pids() - before
    assert len(started) == decoders.workers
    for _ in range(3):
        assert len(list(decoders.decode(requests(paths)))) == 6 and pids() - before == started
    decoders.close()
    assert pids() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_no_more_is_asked_ahead_than_a_few_batches(paths, workers):
    decoders, asked = Decoders(PREPROCESSING, workers), itertools.count()

    def without_end():
        while True:
            next(asked)
            yield [(paths[0], None)]

    batches = decoders.decode(without_end())
    for _ in range(3):
        next(batches)
    assert next(asked) <= 3 + 2 * decoders.workers  # what PyTorch's loader lets each process have ahead
    batches.close()
    decoders.close()


def test_a_pass_that_is_left_early_leaves_nothing_to_the_next(decoders, paths):
    expected = list(decoders.decode(requests(paths)))
    for taken in (0, 1, 2, 5):
        left = decoders.decode(requests(paths[::-1], 3))
        for _ in range(taken):
            next(left, None)
        left.close()
        assert same(list(decoders.decode(requests(paths))), expected)


def test_what_was_asked_ahead_of_a_pass_that_was_left_is_not_decoded(decoders, paths):
    """Each of its images would be an error: the next pass must neither wait for it nor see it."""
    left = decoders.decode([[(paths[0], None)], *[[("/absent.jpg", None)] * 3] * 10])
    next(left)
    left.close()
    assert len(list(decoders.decode(requests(paths)))) == 6


def test_passes_side_by_side_are_right(decoders, paths):
    forward, backward = requests(paths), requests(paths[::-1])
    expected = list(decoders.decode(forward)), list(decoders.decode(backward))
    one, other, seen = decoders.decode(forward), decoders.decode(backward), ([], [])
    for turn in "00101101110010":
        seen[int(turn)].extend(itertools.islice((one, other)[int(turn)], 1))
    assert same(seen[0], expected[0]) and same(seen[1], expected[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_used_ends_its_pass_alone(paths, workers):
    decoders = Decoders(PREPROCESSING, workers)
    with pytest.raises(InputError, match=r"`/absent\.jpg` cannot be read: No such file") as caught:
        list(decoders.decode([*requests(paths), [("/absent.jpg", None)]]))
    assert "mend or remove the file" in caught.value.hint
    assert len(list(decoders.decode(requests(paths)))) == 6
    decoders.close()


def test_processes_that_were_ended_are_told_and_replaced(decoders, paths):
    before = pids()

    def work_on_after_the_end():  # told in whatever runs when the signal comes
        for child in multiprocessing.active_children():
            if child.pid not in before:
                child.kill()
        while True:
            list(decoders.decode(requests(paths)))

    decoders.start()
    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        work_on_after_the_end()
    assert ran_out_of_memory(caught.value)
    decoders.close()
    assert len(list(decoders.decode(requests(paths)))) == 6


def test_nothing_is_kept_of_batches_that_are_gone(decoders, paths):
    held = len(shared_cache)
    for _ in decoders.decode(requests(paths, 1) * 3):
        assert len(shared_cache) <= held + 6


def test_random_numbers_of_the_program_are_left_alone(decoders, paths):
    torch.manual_seed(1)
    list(decoders.decode(requests(paths, seed=(4,))))
    list(Decoders(PREPROCESSING, 0).decode(requests(paths, seed=(4,))))
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))


def test_processes_end_with_what_holds_them(paths):
    """Even in a circle, where Python finds the loader, its pipes and all else together."""
    before = pids()
    ring = [Decoders(PREPROCESSING, 2)]
    ring.append(ring)
    assert len(list(ring[0].decode(requests(paths)))) == 6 and pids() != before
    del ring
    gc.collect()
    assert pids() == before


def test_a_program_that_holds_a_pass_to_its_end_ends(paths):
    """The processes leave the signal by which Python would end them."""
    text = f"""
from asqcli.data.decoders import Decoders
from asqcli.data.preprocessing import Preprocessing
decoders = Decoders({PREPROCESSING!r}, 2)
held = decoders.decode([[({paths[0]!r}, None)]] * 50)
next(held)
"""
    subprocess.run([sys.executable, "-c", text], check=True, timeout=300)
