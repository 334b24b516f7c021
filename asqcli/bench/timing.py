"""Candidates in turns: what else the machine does then slows all of them alike, and ratios stay true."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

TURN_SECONDS = 0.1  # time of a candidate's runs in one round: long beside a scheduler's slice, short beside a round
PAUSE_SECONDS = 0.01  # before a turn: threads of other engines spin for a while when their work is done
WARM_UP_RUNS = 3
FEWEST_ROUNDS, MOST_ROUNDS = 5, 25


@dataclass(frozen=True)
class Clock:
    """Where time comes from: seconds that pass, seconds of all cores that this process took, and a way to wait."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Timing:
    """How long one run of a candidate takes.

    Attributes:
        median_ms: over the rounds, of the median in each turn.
        lower_ms, upper_ms: quartiles over the rounds.
        cores: that were busy on average, threads that only wait for work included.
        runs: that were timed, in all rounds.
    """

    median_ms: float
    lower_ms: float
    upper_ms: float
    cores: float
    runs: int


@dataclass(frozen=True)
class _Turn:
    seconds: tuple[float, ...]  # one for each run
    cpu_seconds: float  # all runs together


def alternate(
    candidates: dict[str, Callable[[], object]], *, seconds: float, clock: Clock | None = None
) -> tuple[dict[str, Timing], int]:
    """Return (how long each candidate takes by its name, the number of rounds).

    A candidate has one turn in each round. Which one comes first, and whether they go forwards or backwards, changes
    from round to round, so that nobody always follows the same one.

    Args:
        candidates: each call is one run.
        seconds: for all rounds together, about; slow candidates take longer, since there are FEWEST_ROUNDS at least.
        clock: None for this machine's.
    """
    clock = clock or Clock()
    for run in candidates.values():
        for _ in range(WARM_UP_RUNS):
            run()
    first = clock.wall()
    turns = {name: [_take_turn(run, clock)] for name, run in candidates.items()}
    rounds = number_of_rounds(seconds, clock.wall() - first)
    for index in range(1, rounds):
        for name in order_of_round(list(candidates), index):
            turns[name].append(_take_turn(candidates[name], clock))
    return {name: _summarize(taken) for name, taken in turns.items()}, rounds


def number_of_rounds(seconds: float, seconds_of_a_round: float) -> int:
    """Return how many rounds fit, at least FEWEST_ROUNDS and at most MOST_ROUNDS.

    >>> number_of_rounds(15, 1.5), number_of_rounds(15, 60), number_of_rounds(15, 0)
    (10, 5, 25)
    """
    fitting = int(seconds / seconds_of_a_round) if seconds_of_a_round > 0 else MOST_ROUNDS
    return min(max(fitting, FEWEST_ROUNDS), MOST_ROUNDS)


def order_of_round(names: list[str], index: int) -> list[str]:
    """Return the order of the turns in a round.

    >>> [order_of_round(["a", "b", "c"], index) for index in range(4)]
    [['a', 'b', 'c'], ['a', 'c', 'b'], ['b', 'c', 'a'], ['b', 'a', 'c']]
    """
    start = index // 2 % len(names)
    order = names[start:] + names[:start]
    return [order[0], *reversed(order[1:])] if index % 2 else order


def _take_turn(run: Callable[[], object], clock: Clock) -> _Turn:
    """Run for TURN_SECONDS, at least once, after one run that fetches what the others pushed out of the caches."""
    clock.sleep(PAUSE_SECONDS)
    run()
    seconds: list[float] = []
    cpu, begin = clock.cpu(), clock.wall()
    end = begin
    while not seconds or end - begin < TURN_SECONDS:
        start, _ = end, run()
        end = clock.wall()
        seconds.append(end - start)
    return _Turn(tuple(seconds), clock.cpu() - cpu)


def _summarize(turns: list[_Turn]) -> Timing:
    medians = [1000 * statistics.median(turn.seconds) for turn in turns]
    lower, middle, upper = statistics.quantiles(medians, n=4, method="inclusive")
    return Timing(
        median_ms=middle,
        lower_ms=lower,
        upper_ms=upper,
        cores=sum(turn.cpu_seconds for turn in turns) / sum(sum(turn.seconds) for turn in turns),
        runs=sum(len(turn.seconds) for turn in turns),
    )
