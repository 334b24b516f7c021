import multiprocessing
import os
import warnings

import numpy as np
import pytest
import torch

from asqcli.data.layout import data_traits
from asqcli.data.preprocessing import Preprocessing
from asqcli.data.source import open_data
from asqcli.data.splits import FileSplit, MemorySplit, batches_per_pass
from asqcli.errors import InputError, UsageError
from asqcli.machine import usable_processors
from asqcli.processes.part import Part

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preprocessing(size=24, augment="shift_flip"):
    return Preprocessing(size, size, MEAN, STD, augment, padding=2)


def test_digits_are_the_embedded_ones():
    data = open_data("digits", preprocessing(16, "shift"), workers=0)
    assert (len(data.train), len(data.result), len(data.classes)) == (1437, 360, 10)
    assert data.watch is None and torch.bincount(data.result.labels).min() >= 34
    again = open_data("digits", preprocessing(16, "shift"), workers=0)
    assert torch.equal(data.result.pixels, again.result.pixels)


def test_a_plain_folder_holds_out_the_same_tenth_for_every_run(image_folder):
    data = open_data(str(image_folder), preprocessing(), workers=1)
    assert data.classes == ("ant", "bee", "cow")
    assert (len(data.train), len(data.result)) == (33, 3) and "held-out" in data.result_name
    again = open_data(str(image_folder), preprocessing(), workers=1, with_train=False)
    assert again.train is None and torch.equal(again.result.pixels, data.result.pixels)


@pytest.mark.parametrize(
    ("splits", "result", "watch"), [("train test", 6, None), ("train val", 9, None), ("train val test", 6, 9)]
)
def test_val_is_for_watching_and_test_for_the_result(tmp_path, splits, result, watch, write_image_folder):
    for split, count in {"train": 5, "val": 3, "test": 2}.items():
        if split in splits.split():
            write_image_folder(tmp_path / split, {"x": count, "y": count, "z": count})
    data = open_data(str(tmp_path), preprocessing(), workers=1)
    assert (len(data.train), len(data.result)) == (15, result)
    assert (len(data.watch) if data.watch else None) == watch


def test_memory_and_files_see_the_same_pixels_in_evaluation(tmp_path, write_image_folder):
    folder = write_image_folder(tmp_path, {"a": 6, "b": 6}, size=(40, 30))
    memory = open_data(str(folder), preprocessing(), workers=1).result
    files = open_data(str(folder), preprocessing(augment="resized_crop"), workers=0).result
    assert isinstance(memory, MemorySplit) and isinstance(files, FileSplit)
    for (x, labels), (y, others) in zip(memory.eval_batches(4), files.eval_batches(4), strict=True):
        assert torch.equal(x, y) and torch.equal(labels, others)


@pytest.mark.parametrize(("augment", "workers"), [("shift_flip", 1), ("resized_crop", 0), ("resized_crop", 2)])
def test_a_pass_is_a_function_of_its_seed_and_can_start_anywhere(tmp_path, augment, workers, write_image_folder):
    folder = write_image_folder(tmp_path, {"a": 14, "b": 14}, size=(40, 30))
    split = open_data(str(folder), preprocessing(augment=augment), workers=workers).train
    torch.manual_seed(1)
    whole = list(split.train_batches(4, seed=(7, 0, 3)))
    torch.manual_seed(2)  # global randomness has no say
    rest = list(split.train_batches(4, seed=(7, 0, 3), first=2))
    other = list(split.train_batches(4, seed=(7, 0, 4)))
    assert len(whole) == batches_per_pass(split, 4) == 7 and len(rest) == 5
    assert sorted(len(labels) for _, labels in whole) == [3, 3, 4, 4, 4, 4, 4] and len(split) == 26
    for (x, labels), (y, others) in zip(whole[2:], rest, strict=True):
        assert torch.equal(x, y) and torch.equal(labels, others)
    assert not torch.equal(whole[0][0], other[0][0])


def test_all_passes_share_processes_and_give_what_one_process_gives(tmp_path, write_image_folder):
    folder = str(write_image_folder(tmp_path, {"a": 14, "b": 14}, size=(40, 30)))
    before = set(multiprocessing.active_children())
    alone, shared = (open_data(folder, preprocessing(augment="resized_crop"), workers=n) for n in (0, 2))
    started = set(multiprocessing.active_children()) - before
    assert len(started) == shared.train.decoders.workers
    for turn in range(2):
        for ways in (
            [data.train.train_batches(5, seed=(7, turn), first=turn) for data in (alone, shared)],
            [data.result.eval_batches(2) for data in (alone, shared)],
            [data.train.spread(7).eval_batches(3) for data in (alone, shared)],
        ):
            for (x, labels), (y, others) in zip(*ways, strict=True):
                assert torch.equal(x, y) and x.stride() == y.stride() and torch.equal(labels, others)
        assert set(multiprocessing.active_children()) - before == started


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be denied to a process here")
def test_no_more_processes_decode_than_there_are_processors_for_them(tmp_path, write_image_folder):
    folder = write_image_folder(tmp_path, {"a": 6, "b": 6}, size=(40, 30))
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PyTorch's, of processes that wait for one another
            split = open_data(str(folder), preprocessing(augment="resized_crop"), workers=3).train
            assert usable_processors() == 1 and len(list(split.train_batches(4, seed=(0,)))) == 3
    finally:
        os.sched_setaffinity(0, usable)


def test_a_split_smaller_than_a_batch_is_one_batch(image_folder):
    split = open_data(str(image_folder), preprocessing(), workers=1).train
    batches = list(split.train_batches(500, seed=(0,)))
    assert len(batches) == 1 and len(batches[0][1]) == 33


def test_kinds_and_sizes_are_seen_without_reading_pixels(tmp_path, write_image_folder):
    assert data_traits("digits").kind == "digits" and data_traits("cifar10").kind == "cifar"
    small = write_image_folder(tmp_path / "s", {"a": 2, "b": 2}, size=(30, 28))
    large = write_image_folder(tmp_path / "l", {"a": 2, "b": 2}, size=(300, 200))
    assert (data_traits(str(small)).kind, data_traits(str(small)).image_size) == ("small", 32)
    assert (data_traits(str(large)).kind, data_traits(str(large)).image_size) == ("large", 224)


def test_cifar_in_torchvisions_layout_is_checked_before_it_is_read(tmp_path):
    inner = tmp_path / "cifar-10-batches-py"
    inner.mkdir()
    (inner / "data_batch_1").write_bytes(b"not the published file")
    with pytest.raises(InputError, match="cifar10 cannot be read"):
        open_data(str(tmp_path), preprocessing(32), workers=0)


def test_cifar_in_torchvisions_layout(tmp_path, monkeypatch):
    """Made-up files in the published layout; their checksums are declared to be the published ones."""
    import hashlib
    import pickle

    from torchvision.datasets import CIFAR10

    inner = tmp_path / "cifar-10-batches-py"
    inner.mkdir()
    rng = np.random.default_rng(0)

    def write(name, content):
        (inner / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((inner / name).read_bytes()).hexdigest()]

    def batch():
        return {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [n % 10 for n in range(20)]}

    monkeypatch.setattr(CIFAR10, "train_list", [write(f"data_batch_{n}", batch()) for n in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch())])
    name, md5 = write("batches.meta", {"label_names": [f"class{n}" for n in range(10)]})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    data = open_data(str(tmp_path), preprocessing(32), workers=0)
    assert (len(data.train), len(data.result), data.classes[3]) == (100, 20, "class3")
    assert data.train.pixels.shape == (100, 3, 32, 32)


def test_what_is_wrong_with_a_folder_is_said(tmp_path, image_folder):
    with pytest.raises(InputError, match="no data set or folder"):
        open_data(str(tmp_path / "absent"), preprocessing(), workers=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in"):
        open_data(str(tmp_path / "empty"), preprocessing(), workers=0)
    (image_folder / "dog").mkdir()
    with pytest.raises(InputError, match=r"dog` has no images"):
        open_data(str(image_folder), preprocessing(), workers=0)
    with pytest.raises(UsageError, match="resized_crop"):
        open_data("digits", preprocessing(augment="resized_crop"), workers=0)


@pytest.mark.parametrize(("augment", "workers"), [("shift", 1), ("resized_crop", 0), ("resized_crop", 2)])
def test_a_truncated_image_is_named(tmp_path, augment, workers, write_image_folder):
    folder = write_image_folder(tmp_path / "train", {"a": 8, "b": 8}, size=(80, 80)).parent
    write_image_folder(tmp_path / "test", {"a": 2, "b": 2}, size=(80, 80))
    broken = tmp_path / "train" / "b" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(InputError, match=r"3\.jpg` cannot be read"):
        list(open_data(str(folder), preprocessing(augment=augment), workers=workers).train.train_batches(4, seed=(0,)))


def test_classes_that_differ_between_splits(tmp_path, write_image_folder):
    write_image_folder(tmp_path / "train", {"a": 2, "b": 2})
    write_image_folder(tmp_path / "test", {"a": 2, "c": 2})
    with pytest.raises(InputError, match="`b` is only in"):
        open_data(str(tmp_path), preprocessing(), workers=0)


def test_normalised_input_is_the_shared_codes(image_folder):
    """Training's input equals NumPy's multiply-then-add of images.py to the bit."""
    from asqcli import images

    split = open_data(str(image_folder), preprocessing(), workers=1).result
    x, _ = next(split.eval_batches(3))
    multiplier, addend = images.normalization(MEAN, STD)
    pixels = split.pixels.numpy().astype(np.float32)
    assert np.array_equal(x.numpy(), pixels * multiplier[:, None, None] + addend[:, None, None])


@pytest.mark.parametrize("augment", ["none", "shift_flip", "resized_crop"])
def test_the_parts_of_a_batch_make_up_the_whole(image_folder, augment):
    split = open_data(str(image_folder), preprocessing(augment=augment), workers=0).training
    assert isinstance(split, FileSplit) == (augment == "resized_crop")
    whole = list(split.train_batches(10, seed=(1, 2), first=1))
    parts = [list(split.train_batches(10, seed=(1, 2), first=1, part=Part(n, 3))) for n in range(3)]
    for images, labels in whole:
        own = [next(iter(part)) for part in parts]
        assert [len(labels) for _, labels in own] == [3, 3, 2]
        assert torch.equal(torch.cat([images for images, _ in own]), images)
        assert torch.equal(torch.cat([labels for _, labels in own]), labels)
        parts = [part[1:] for part in parts]
    assert not any(parts)
