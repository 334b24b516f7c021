"""Which process tells of a failure."""

import pytest

from asqcli.processes import failures

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Store(dict):
    """Torch's, as far as it is used."""

    def compare_set(self, key, expected, new):
        if self.get(key, "") == expected:
            self[key] = new
        return self[key].encode()


@pytest.fixture
def as_rank(monkeypatch):
    """A function that makes this process one of several."""

    def become(rank, store=None):
        for name in VARIABLES:
            monkeypatch.setenv(name, str(rank))
        monkeypatch.setattr(failures, "_store", store)

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return become


def test_a_process_alone_tells(as_rank):
    assert failures.told_elsewhere(3) is None and not failures.launched()


def test_before_they_have_met_the_first_tells(as_rank):
    as_rank(0)
    assert failures.told_elsewhere(2) is None
    as_rank(1)
    assert failures.told_elsewhere(2) == 2


def test_the_first_to_fail_tells_and_all_have_its_exit_code(as_rank):
    store = Store()
    as_rank(2, store)
    assert failures.told_elsewhere(3) is None
    as_rank(0, store)
    assert failures.told_elsewhere(6) == 3
    as_rank(2, store)
    assert failures.told_elsewhere(3) is None


def test_without_the_store_each_tells_where_the_first_may_be_gone(as_rank, monkeypatch):
    as_rank(1, object())
    assert failures.told_elsewhere(6) is None
    monkeypatch.setenv(failures.LAUNCHER, "1")  # which kept the store, and is gone
    assert failures.told_elsewhere(143) == 143
    as_rank(0, object())
    assert failures.told_elsewhere(143) is None
