"""Folders of images without labels, and data sets in the classes of a network."""

import pytest

from asqcli.data.class_names import read_class_names
from asqcli.data.layout import data_traits
from asqcli.data.samples import find_samples
from asqcli.errors import InputError


def flat(folder, source):
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(source.glob("*/*.jpg"))):
        (folder / f"{number:02}.jpg").write_bytes(path.read_bytes())
    return folder


def test_flat_and_nested_folders_hold_out_a_tenth_that_stays_the_same(tmp_path, image_folder):
    for folder in (flat(tmp_path / "flat", image_folder), image_folder):
        found, again = (find_samples(str(folder), labelled=False) for _ in range(2))
        assert (len(found.train), len(found.result)) == (33, 3) and found.classes == () and not found.notes
        assert "held-out" in found.result_name and list(again.result.paths) == list(found.result.paths)
        assert not found.train.labels.any() and not set(found.train.paths) & set(found.result.paths)
    assert data_traits(str(tmp_path / "flat"), labelled=False).kind == "small"


def test_splits_count_where_there_is_something_to_train_on_and_to_measure_on(tmp_path, image_folder):
    photos = tmp_path / "photos"
    flat(photos / "Training", image_folder)
    for name in ("val", "holiday"):
        flat(photos / name / "inner", image_folder)
    found = find_samples(str(tmp_path / "photos"), labelled=False)
    assert (len(found.train), len(found.result), found.watch) == (36, 36, None) and "val`" in found.result_name
    assert "the splits are train in" in found.notes[0] and found.notes[1].endswith("beside the splits: `holiday`")
    (photos / "Training").rename(photos / "mountains")
    assert len(find_samples(str(photos), labelled=False).train) == 98  # of 108: no folder's name means a thing


def test_a_split_around_one_more_folder_is_found(tmp_path, image_folder):
    for split in ("train", "test"):
        flat(tmp_path / "archive" / "photos" / split, image_folder)
    assert len(find_samples(str(tmp_path / "archive"), labelled=False).result) == 36


def test_a_file_counts_once_whatever_it_is_called(tmp_path, image_folder):
    folder = flat(tmp_path / "flat", image_folder)
    (folder / "again.jpg").symlink_to(folder / "00.jpg")
    found = find_samples(str(folder), labelled=False)
    assert len(found.train) + len(found.result) == 36
    assert found.notes == ("counted once, images with several names in their split: `again.jpg`",) or found.notes == (
        "counted once, images with several names in their split: `00.jpg`",
    )


def test_too_few_images(tmp_path, image_folder):
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no images in"):
        find_samples(str(tmp_path / "none"), labelled=False)
    (tmp_path / "none" / "one.jpg").write_bytes((image_folder / "ant" / "0.jpg").read_bytes())
    with pytest.raises(InputError, match="has one image, too few to hold some out"):
        find_samples(str(tmp_path / "none"), labelled=False)


def test_labels_of_the_digits_are_ignored():
    found = find_samples("digits", labelled=False)
    assert (len(found.train), len(found.result), found.classes) == (1437, 360, ()) and not found.result.labels.any()


def test_a_folder_is_labelled_by_the_classes_of_a_network(image_folder):
    found = find_samples(str(image_folder), classes=("wasp", "cow", "bee", "ant"))
    named = [path.split("/")[-2] for path in found.train.paths]
    assert [found.classes[label] for label in found.train.labels] == named
    assert found.notes == ("it has 3 of the network's 4 classes",)
    same = find_samples(str(image_folder), classes=("cow", "bee", "ant"))
    assert not same.notes and same.classes == ("cow", "bee", "ant")
    with pytest.raises(InputError, match="not those of the network: it has no `cow`"):
        find_samples(str(image_folder), classes=("ant", "bee", "dog"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"ant\n\nbee\n", "line 2 of .* has nothing in place of a class name"),
        (b"ant\nbee\nant\n", "more than once: `ant`"),
        (b"ant\nb\x1bee\n", "line 2 of .* has a control character"),
        (b"ant\n\xff\n", "are not text in UTF-8"),
        (b"", "line 1 of .* has nothing"),
    ],
)
def test_files_that_name_no_classes(tmp_path, content, told):
    (tmp_path / "names").write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_class_names(str(tmp_path / "names"))


def test_a_file_of_class_names(tmp_path):
    (tmp_path / "names").write_bytes("\ufeffant\r\nfire ant \r\n\r\n".encode())
    assert read_class_names(str(tmp_path / "names")) == ("ant", "fire ant")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_class_names(str(tmp_path / "absent"))
