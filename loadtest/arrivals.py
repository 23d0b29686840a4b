"""When people arrive: an open loop, so a slow system meets as many of them as a fast one."""

import random
from collections.abc import Iterator


def arrival_times(people: int, rate_per_s: float, seed: int) -> Iterator[float]:
    """Seconds after the start at which each person arrives, in order: a Poisson process.

    The same seed gives the same times, so that several processes can share them out without talking.
    """
    gaps = random.Random(seed)
    at_s = 0.0
    for _ in range(people):
        at_s += gaps.expovariate(rate_per_s)
        yield at_s


def own_arrivals(
    people: int, rate_per_s: float, seed: int, process: int, processes: int
) -> Iterator[tuple[int, float]]:
    """The people that one of several processes plays: (number, seconds after the start)."""
    for number, at_s in enumerate(arrival_times(people, rate_per_s, seed)):
        if number % processes == process:
            yield number, at_s
