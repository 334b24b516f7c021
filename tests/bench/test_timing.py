"""Turns and medians, on a clock that only the runs advance."""

from __future__ import annotations

import pytest

from asqcli.bench.timing import FEWEST_ROUNDS, MOST_ROUNDS, WARM_UP_RUNS, Clock, alternate, order_of_round


class FakeTime:
    """Time that passes only in runs and waits; one core works during runs, and none in waits."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0
        self.log: list[str] = []

    @property
    def clock(self) -> Clock:
        return Clock(wall=lambda: self.now, cpu=lambda: self.cpu, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run_of(self, name, milliseconds, cores=1.0):
        """Return a run that takes so long; a list: each of its runs, the last one again and again."""
        durations = list(milliseconds) if isinstance(milliseconds, list) else [milliseconds]

        def run():
            taken = (durations.pop(0) if len(durations) > 1 else durations[0]) / 1000
            self.log.append(name)
            self.now += taken
            self.cpu += taken * cores

        return run

    def turns(self):
        """Return the names of the turns, in order, after the runs that warm up."""
        names = [name for i, name in enumerate(self.log) if i == 0 or self.log[i - 1] != name]
        return names[len(set(names)) :]


def test_medians_and_busy_cores_are_those_of_the_runs():
    time = FakeTime()
    timings, rounds = alternate(
        {"fast": time.run_of("fast", 2.0, cores=1.5), "slow": time.run_of("slow", 30.0)}, seconds=3, clock=time.clock
    )
    assert timings["fast"].median_ms == pytest.approx(2) and timings["slow"].median_ms == pytest.approx(30)
    assert timings["fast"].lower_ms == pytest.approx(2) == timings["fast"].upper_ms
    assert timings["fast"].cores == pytest.approx(1.5) and timings["slow"].cores == pytest.approx(1)
    assert 50 * rounds <= timings["fast"].runs <= 51 * rounds and timings["slow"].runs == 4 * rounds
    assert rounds == 11  # of 0.01 s, 2 ms and 0.1 s, then 0.01 s, 30 ms and 0.12 s: 0.272 s
    assert time.now == pytest.approx(WARM_UP_RUNS * 0.032 + rounds * 0.272, abs=rounds * 0.002)


def test_a_slow_candidate_gets_its_rounds_and_a_quick_one_no_more_than_enough():
    time = FakeTime()
    timings, rounds = alternate({"slow": time.run_of("slow", 10_000)}, seconds=1, clock=time.clock)
    assert rounds == FEWEST_ROUNDS == timings["slow"].runs
    assert time.log == ["slow"] * (WARM_UP_RUNS + 2 * FEWEST_ROUNDS)
    _, rounds = alternate({"quick": time.run_of("quick", 1)}, seconds=1000, clock=time.clock)
    assert rounds == MOST_ROUNDS


def test_warm_up_and_the_first_run_of_a_turn_do_not_count():
    time = FakeTime()
    cold = [5000.0] * (WARM_UP_RUNS + 1) + [200.0] * 100
    timings, _ = alternate({"a": time.run_of("a", cold)}, seconds=1, clock=time.clock)
    assert timings["a"].upper_ms == pytest.approx(200)


def test_one_disturbed_round_does_not_move_the_median():
    time = FakeTime()
    durations = [200.0] * (WARM_UP_RUNS + 5) + [900.0] * 2 + [200.0] * 100
    timings, rounds = alternate({"a": time.run_of("a", durations)}, seconds=1, clock=time.clock)
    assert timings["a"].median_ms == pytest.approx(200) and rounds == FEWEST_ROUNDS


def test_every_candidate_has_a_turn_in_each_round_and_the_order_changes():
    time = FakeTime()
    names = ["a", "b", "c"]
    _, rounds = alternate({n: time.run_of(n, 200) for n in names}, seconds=1, clock=time.clock)
    flat = [name for index in range(rounds) for name in order_of_round(names, index)]
    assert time.turns() == [name for i, name in enumerate(flat) if i == 0 or flat[i - 1] != name]
    for n in range(1, 8):
        names = [str(i) for i in range(n)]
        orders = [order_of_round(names, index) for index in range(2 * n)]
        assert all(sorted(order) == sorted(names) for order in orders)
        assert {order[0] for order in orders} == set(names)
