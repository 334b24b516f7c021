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


def test_the_loss_does_not_depend_on_the_batches():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(0, 3, (1000, 7)).astype(np.float32), rng.integers(0, 7, 1000)
    losses = []
    for size in (1, 7, 256, 1000):
        counter = AccuracyCounter()
        for first in range(0, 1000, size):
            counter.add(logits[first : first + size], labels[first : first + size])
        losses.append(counter.result().loss)
    assert len(set(losses)) == 1
