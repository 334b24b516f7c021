"""Names of folders that mean a split, in the forms that people give them: `Training`, `valid`, `images_test`.

A plain name says nothing but a split (`Train`, `test_images`, `val2017`); any other that has the word in it
(`seg_train`, `bullet_train`, `test_tube`) may as well be a class.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# `eval` is what is measured: the test split, or the validation split where another one is called test.
WORDS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel"),
    "test": ("test", "testing"),
    "eval": ("eval", "evaluation"),
}
UNLABELLED = frozenset(
    {
        "pred", "preds", "predict", "prediction", "predictions", "inference", "unlabeled", "unlabelled", "unsup",
        "unsupervised", "submission",
    }
)  # fmt: skip
FILLERS = frozenset(
    {
        "set", "sets", "data", "dataset", "datasets", "split", "splits", "image", "images", "img", "imgs", "picture",
        "pictures", "pic", "pics", "photo", "photos", "folder", "folders", "dir", "directory", "sample", "samples",
        "jpg", "jpeg", "png", "classes", "all", "the", "my", "final", "new", "full",
    }
)  # fmt: skip

_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
_BORDERS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])|[\W_]+")


@dataclass(frozen=True)
class SplitName:
    """What a folder's name says of a split.

    Attributes:
        split: train, val, test or eval.
        rest: the words that say something else; none in a plain name.
    """

    split: str
    rest: tuple[str, ...]


def read_split(name: str) -> SplitName | None:
    """Return what a name says of a split; None when it says nothing, or names several.

    >>> read_split("Training"), read_split("test_images")
    (SplitName(split='train', rest=()), SplitName(split='test', rest=()))
    >>> read_split("seg_train"), read_split("ValidationSet2")
    (SplitName(split='train', rest=('seg',)), SplitName(split='val', rest=()))
    >>> read_split("contest"), read_split("train_test_split")
    (None, None)
    """
    words = _words(name)
    splits = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    if splits == {"train", "val"}:
        splits = {"train"}  # train_val: both, to train on
    if len(splits) != 1:
        return None
    return SplitName(splits.pop(), tuple(word for word in words if word not in _SPLIT_OF and not _says_nothing(word)))


def says_unlabelled(name: str) -> bool:
    """Does a name say that nobody knows the classes of what lies there, as `seg_pred` does?"""
    return not UNLABELLED.isdisjoint(_words(name))


def is_filler(name: str) -> bool:
    """Does a name say nothing, as `images` or `data_set` do? Bare numbers may be classes."""
    words = _words(name)
    return not FILLERS.isdisjoint(words) and all(_says_nothing(word) for word in words)


def _words(name: str) -> list[str]:
    """Return the words of a name in small letters; `trainset` and `imagestest` are two each."""
    words = []
    for word in filter(None, _BORDERS.split(name)):
        word = word.casefold()
        cuts = ((word[:n], word[n:]) for n in range(1, len(word)))
        words += next((two for two in cuts if _are_joined(*two)), (word,))
    return words


def _are_joined(first: str, second: str) -> bool:
    return (first in _SPLIT_OF and second in FILLERS) or (first in FILLERS and second in _SPLIT_OF)


def _says_nothing(word: str) -> bool:
    return word in FILLERS or word.isdecimal()
