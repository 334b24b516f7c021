"""The count of right answers, against one that sorts."""

import math

import numpy as np

from asqcli.accuracy import AccuracyCounter


def counted(logits, labels):
    counter = AccuracyCounter()
    counter.add(np.array(logits, np.float32), np.array(labels))
    return counter.result()


def test_ranks_are_those_of_a_stable_sort():
    rng = np.random.default_rng(0)
    logits, labels = rng.integers(0, 6, (200, 9)), rng.integers(0, 9, 200)
    order = np.argsort(-logits, axis=1, kind="stable")
    ranks = (order == labels[:, None]).argmax(axis=1)
    result = counted(logits, labels)
    assert result.top1 == round(100 * (ranks == 0).mean(), 2) and result.top5 == round(100 * (ranks < 5).mean(), 2)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert math.isclose(result.loss, -np.log(shares[np.arange(200), labels]).mean())


def test_a_nan_is_never_right():
    for logits in ([math.nan] * 3, [1.0, math.nan, 0.0], [math.nan, 1.0, 0.0]):
        result = counted([logits], [0])
        assert result.top1 == 0 and math.isnan(result.loss)
