"""Folders as downloads, archives and systems leave them: splits, classes, what is passed over, what is told."""

import os

import numpy as np
import pytest
from PIL import Image

from asqcli.data.image_folder import read_image_folder, sample_paths
from asqcli.data.layout import data_traits
from asqcli.data.samples import find_samples
from asqcli.errors import InputError

PIXEL = b"P5 1 1 255\n\0"


def put(root, *files):
    """Write a tiny image, or any file, under each name: `cat/{1,2}.pgm`."""
    for name in files:
        before, _, rest = name.partition("{")
        names, _, after = rest.partition("}")
        for middle in names.split(","):
            path = root / (before + middle + after)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PIXEL)
    return root


def split(name, *classes, count="{1,2,3}"):
    return [f"{name}/{c}/{count}.pgm" for c in classes or ("cat", "dog")]


def read(root):
    """Return (classes, {split: number of images}, everything told)."""
    found = read_image_folder(str(root))
    return found.classes, {s: len(listing.paths) for s, listing in found.splits.items()}, "\n".join(found.notes)


@pytest.mark.parametrize(
    ("train", "other", "name"),
    [
        ("train", "test", "test"),
        ("Train", "Test", "test"),
        ("TRAIN", "VALID", "val"),
        ("Training", "Testing", "test"),
        ("training", "validation", "val"),
        ("train", "dev", "val"),
        ("train", "Eval", "test"),
        ("train_images", "test_images", "test"),
        ("images_train", "images_test", "test"),
        ("TrainSet", "TestSet", "test"),
        ("train2017", "val2017", "val"),
        ("1_train", "2_test", "test"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
        ("chest-train", "chest-test", "test"),
        ("images/train", "images/test", "test"),
        ("data/Training", "data/Testing", "test"),
        ("set/photos/train", "set/photos/val", "val"),
        ("train/images", "test/images", "test"),
    ],
)
def test_splits_by_their_usual_names(tmp_path, train, other, name):
    put(tmp_path, *split(train), *split(other, count="{1,2}"))
    classes, counts, told = read(tmp_path)
    assert classes == ("cat", "dog") and counts == {"train": 6, name: 4}
    assert train == "train" or train.partition("/")[0] in told  # whatever is not plain is told
    assert len(find_samples(str(tmp_path)).result) == 4


def test_three_splits_and_an_evaluation_set(tmp_path):
    put(tmp_path, *split("training"), *split("validation", count="{1,2}"), *split("evaluation", count="{1}"))
    assert read(tmp_path)[1] == {"train": 6, "val": 4, "test": 2}


def test_a_lone_split_is_one_wherever_it_lies(tmp_path):
    put(tmp_path, *split("seg_train/seg_train"), "seg_pred/seg_pred/{1,2}.pgm", "README{.md}")
    classes, counts, told = read(tmp_path)
    assert classes == ("cat", "dog") and counts == {"train": 6}
    assert "`seg_pred` (no classes)" in told and "1 .md" in told and "seg_train/seg_train`" in told


def test_harmless_siblings_are_passed_over_and_told(tmp_path):
    put(tmp_path, *split("train"), *split("test"), "__MACOSX/{._a}.pgm", ".git/{x}.pgm", "labels/train/{1}.txt")
    put(tmp_path, *split("copy/train"), *split("copy/test"), "train_labels/{1}.txt", "{cover}.pgm")
    _, counts, told = read(tmp_path)
    assert counts == {"train": 6, "test": 6}
    for text in ("`labels` (no images)", "`train_labels` (no images)", "`copy` (splits of its own)", "such as `.git`"):
        assert text in told
    assert "no class folder: `cover.pgm`" in told


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["cat/{1,2}.pgm", "dog/{1,2}.pgm", "test/{1,2}.pgm"], r"splits, `test`, beside others .* `cat`; `dog`"),
        ([*split("train"), *split("extra")], r"named as splits, `train`, beside others with images, `extra`"),
        ([*split("train"), *split("Training")], r"several folders .* split train: `Training`; `train`"),
        ([*split("train"), *split("valid"), *split("dev")], r"several folders .* split val"),
        ([f for n in ("trainA", "trainB", "testA", "testB") for f in split(n)], r"split test: `testA`; `testB`"),
        (["cat/train/{1,2}.pgm", "cat/test/{1}.pgm", "dog/train/{1,2}.pgm"], r"class folder .*cat` has .*cat/test`"),
        ([*split("train", "cat", "val")], r"has class folders and .*train/val`, named as a split"),
        ([*split("train"), "test/{1,2}.pgm"], r"test` has images, but no class folders"),
        ([*split("train"), *split("test", "cat")], r"has one class"),
        (["images/{1,2}.pgm"], r"has one class, `images`"),
        ([*split("train"), *split("test", "cat", "Dog")], r"`dog` is only in .*train`; `Dog` is only in"),
        (["cat/{1,2}.pgm", "dog/{1,2}.gif"], r"dog` has no images by their ending, but 2 \.gif"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        read(put(tmp_path, *files))


def test_classes_that_sound_like_splits_are_told(tmp_path):
    put(tmp_path, "bullet_train/{1}.pgm", "test_tube/{1}.pgm", "contest/{1}.pgm")
    classes, counts, told = read(tmp_path)
    assert classes == ("bullet_train", "contest", "test_tube") and counts == {"train": 3}
    assert "taken for classes, not for splits: 2, such as `bullet_train`" in told


def test_classes_inside_all_class_folders_are_told(tmp_path):
    """Splits in another language cannot be known; that their folders hold the classes can be seen."""
    _, _, told = read(put(tmp_path, *split("Entrenamiento"), *split("Prueba")))
    assert "warning: all class folders hold folders of the same names, `cat`; `dog`" in told
    assert "warning" not in read(put(tmp_path / "x", "cat/images/{1}.pgm", "dog/images/{1}.pgm", "cat/{2}.pgm"))[2]


def test_classes_that_differ_only_in_case_or_accents_are_told(tmp_path):
    _, _, told = read(put(tmp_path, "cat/{1}.pgm", "Cat/{1}.pgm", "caf\u00e9/{1}.pgm", "cafe\u0301/{1}.pgm"))
    assert "`Cat` and `cat`" in told and "accents" in told and told.count(" and `") == 2


def test_hidden_files_and_others_are_passed_over_with_their_number(tmp_path):
    put(tmp_path, *split(".", count="{1,2}"), "cat/.ipynb_checkpoints/{1-checkpoint}.pgm", "cat/{._1}.pgm")
    put(tmp_path, "cat/{.DS_Store}", "dog/{Thumbs.db}", "dog/@eaDir/{1}.pgm", "dog/{a,b}.txt", "dog/{c}.GIF")
    classes, counts, told = read(tmp_path)
    assert classes == ("cat", "dog") and counts == {"train": 4}
    assert "hidden or left by a system: 5, such as `cat/.DS_Store`" in told
    assert "no images by their ending: 2 .txt; 1 .gif" in told


def test_a_folder_or_a_pipe_with_an_images_ending_is_no_image(tmp_path):
    put(tmp_path, *split("."), "cat/x.pgm/{1}.txt")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    _, counts, told = read(tmp_path)
    assert counts == {"train": 6} and "1 devices and pipes" in told


def test_nested_folders_and_images_beside_them_are_their_class(tmp_path):
    put(tmp_path, "cat/{1,2}.pgm", "cat/a/b/{3}.pgm", "dog/2020/{1}.pgm")
    _, counts, told = read(tmp_path)
    assert counts == {"train": 4} and "folders in class folders: 2, such as `cat/a/b`" in told


def test_links_are_followed_and_no_file_counts_twice(tmp_path):
    put(tmp_path, *split("elsewhere/one"), *split("d"))
    data = tmp_path / "d"
    (data / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "one" / "cat")
    (data / "cat" / "again").symlink_to(tmp_path / "elsewhere" / "one" / "cat")
    (data / "cat" / "up").symlink_to(data)
    (data / "cat" / "z.pgm").symlink_to("1.pgm")
    os.link(data / "dog" / "1.pgm", data / "dog" / "copy.pgm")
    (data / "cow").symlink_to(tmp_path / "elsewhere" / "one" / "dog")
    classes, counts, told = read(data)
    assert classes == ("cat", "cow", "dog") and counts == {"train": 3 + 3 + 3 + 3}
    assert "links to folders that are read already: 2, such as `cat/more`" in told  # `again` came first
    assert "counted once, images with several names in their class: 2, such as `cat/z.pgm`" in told


def test_the_same_file_in_two_classes_or_splits_is_told(tmp_path):
    put(tmp_path, *split("train"))
    (tmp_path / "val").symlink_to("train")
    assert "warning: the same file is in several splits: 6, such as `train/cat/1.pgm`" in read(tmp_path)[2]
    put(tmp_path / "x", *split("."))
    (tmp_path / "x" / "dog" / "stray").symlink_to("../cat")
    assert "warning: the same file is in several classes: 3, such as `cat/1.pgm`" in read(tmp_path / "x")[2]


@pytest.mark.parametrize("name", ["cat/9.pgm", "cat/more", "cow"])
@pytest.mark.parametrize("target", ["/nowhere/at/all", "itself"])
def test_links_to_nothing_are_named(tmp_path, name, target):
    put(tmp_path, *split("."))
    (tmp_path / name).symlink_to(os.path.basename(name) if target == "itself" else target)
    with pytest.raises(InputError, match=rf"a link leads to nothing: .*{name}`"):
        read(tmp_path)


@pytest.mark.parametrize("name", [b"caf\xe9", b"cat\n", b"\x1b[2J"])
def test_class_names_that_are_no_text_are_refused_printably(tmp_path, name):
    put(tmp_path, *split("."))
    os.rename(os.fsencode(tmp_path / "cat"), os.path.join(os.fsencode(tmp_path), name))
    with pytest.raises(InputError, match="in its name") as caught:
        read(tmp_path)
    assert caught.value.message.isprintable()


def test_files_may_have_any_name_and_the_folder_may_not(tmp_path):
    put(tmp_path / "d", *split("."))
    os.rename(tmp_path / "d" / "cat" / "1.pgm", os.fsencode(tmp_path / "d" / "cat") + b"/\xe9\n.pgm")
    assert len(find_samples(str(tmp_path / "d")).train) == 5
    renamed = os.fsencode(tmp_path) + b"/\xe9"
    os.rename(tmp_path / "d", renamed)
    with pytest.raises(InputError, match=r"\\xe9` has bytes that are not UTF-8"):
        find_samples(os.fsdecode(renamed))


def test_a_folder_that_loops_through_its_own_names_ends(tmp_path):
    """Folders that no name tells apart, linked in circles: the search for class folders must come to an end."""
    put(tmp_path, *split("pred/a"), "data/{1}.pgm")
    links = (("data/images", "pred"), ("pred/data", "data"), ("pred/a/cat/x", "pred/a"), ("data/data", "data"))
    for here, there in links:
        (tmp_path / here).symlink_to(tmp_path / there)
    with pytest.raises(InputError):
        read(tmp_path / "data" / "images" / "data")
    read(tmp_path)


def test_the_typical_size_passes_over_what_cannot_be_read(tmp_path, write_image_folder, monkeypatch):
    folder = write_image_folder(tmp_path, {"a": 4, "b": 4}, size=(30, 28))
    opened = Image.open

    def fail(path, *rest):
        if str(path).endswith("0.jpg"):
            raise RuntimeError("as a plugin may")
        return opened(path, *rest)

    monkeypatch.setattr(Image, "open", fail)
    assert data_traits(str(folder)).image_size == 32


def test_a_sample_is_spread_over_all_images_and_looks_into_few_of_many_classes(tmp_path):
    few = put(tmp_path / "few", *split(".", "a", "b", "c", count="{1,2,3,4}"))
    assert [path[-7:] for path in sample_paths(str(few), 5)] == [f"{c}/{n}.pgm" for c in "abc" for n in (1, 3)]
    many = put(tmp_path / "many", *split(".", *(f"{n:02}" for n in range(20)), count="{1,2}"))
    (many / "01" / "1.pgm").rename(many / "01" / "1.gone")
    (many / "01" / "2.pgm").rename(many / "01" / "2.gone")  # told when the whole folder is read
    assert [path[-8:-6] for path in sample_paths(str(many), 5)] == ["00", "04", "08", "12", "16"]
    with pytest.raises(InputError, match=r"01` has no images by their ending"):
        read(many)


def test_the_held_out_tenth_depends_on_names_alone(tmp_path):
    names = ",".join(str(n) for n in range(30))
    one = find_samples(str(put(tmp_path / "a", *split(".", count=f"{{{names}}}"))))
    two = find_samples(str(put(tmp_path / "b" / "images", *split(".", count=f"{{{names}}}")).parent))
    tails = [[path[-10:] for path in found.result.paths] for found in (one, two)]
    assert len(one.result) == 6 and [t.rpartition("/")[2] for t in tails[0]] == [t.rpartition("/")[2] for t in tails[1]]
    assert np.array_equal(one.train.labels, two.train.labels)
