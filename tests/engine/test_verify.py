"""The proof must not pass where one side shows less than the other."""

import numpy as np

from asqcli.engine.verify import verify

INPUTS = np.zeros((2, 3, 4, 4), np.float32)
LOGITS = np.float32([[1, 2], [3, 4]])


def shows(**layers):
    """Return a runner that observes of each layer these accumulators, and codes of the same size."""

    def run(inputs, observe):
        for name, accumulators in layers.items():
            accumulators = np.asarray(accumulators)
            observe(name, np.zeros(accumulators.shape, np.float32), accumulators)
        return LOGITS

    return run


def test_equal_runners_are_equal():
    result = verify(shows(a=[1, 2], b=[3]), shows(a=[1, 2], b=[3]), [INPUTS, INPUTS])
    assert result.exact and list(result.layers) == ["a", "b"] and (result.images, result.same_labels) == (4, 4)


def test_a_layer_that_one_side_never_ran_differs_in_all():
    for ours, other in ((shows(a=[1, 2]), shows()), (shows(), shows(a=[1, 2]))):
        result = verify(ours, other, [INPUTS])
        assert not result.exact and (result.code_mismatches, result.accumulator_mismatches) == (2, 2)


def test_a_layer_that_one_side_ran_more_often_differs_in_all():
    result = verify(shows(a=[1]), shows(a=[1, 1, 1]), [INPUTS])
    assert not result.exact and result.accumulator_mismatches == 3


def test_whole_numbers_are_compared_as_float32_meets_them():
    """Above 2^24 the next step rounds them, whatever type a kernel holds them in."""
    above = 2**24 + 1
    assert verify(shows(a=np.float32([above])), shows(a=np.int32([above])), [INPUTS]).exact
    assert not verify(shows(a=np.float32([above])), shows(a=np.int32([above + 2])), [INPUTS]).exact
