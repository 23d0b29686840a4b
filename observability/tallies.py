"""Counting on the hot path: plain numbers, handed over to Prometheus' client now and then.

One `inc` of prometheus-client costs a lock, a system call (whether the process has forked) and a write into
a mapped file; a reservation has five of them to make. A tally is an integer. `flush` moves what was tallied
into the real metrics: before they are shown, and every FLUSH_INTERVAL_S, so that the other processes, which
show the sum of all, are behind by no more than that. All of it belongs to the thread of the event loop.
"""

from bisect import bisect_left
from functools import cache

from prometheus_client import Counter, Histogram

from observability import metrics

FLUSH_INTERVAL_S = 0.1


class CounterTally:
    """How often since the last flush: `tally.count += 1`."""

    __slots__ = ("_counter", "count")

    def __init__(self, counter: Counter) -> None:
        self.count = 0
        self._counter = counter
        _tallies.append(self)

    def flush(self) -> None:
        """Add it to the counter."""
        count, self.count = self.count, 0
        if count:
            self._counter.inc(count)


class HistogramTally:
    """What a histogram would have observed since the last flush."""

    __slots__ = ("_bounds", "_counts", "_histogram", "_sum")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._bounds = histogram._upper_bounds  # the last one is infinity
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        _tallies.append(self)

    def observe(self, amount: float) -> None:
        """Count one observation."""
        self._sum += amount
        self._counts[bisect_left(self._bounds, amount)] += 1

    def flush(self) -> None:
        """Add them to the histogram. Its own `observe` takes one at a time, so this does what that does."""
        counts, self._counts = self._counts, [0] * len(self._bounds)
        total, self._sum = self._sum, 0.0
        if not any(counts):
            return
        self._histogram._sum.inc(total)
        for bucket, count in zip(self._histogram._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


_tallies: list[CounterTally | HistogramTally] = []


@cache
def counter(name: str, **labels: str) -> CounterTally:
    """The tally of a counter of the table with its labels bound."""
    return CounterTally(metrics.counter(name, **labels))


@cache
def histogram(name: str, **labels: str) -> HistogramTally:
    """The tally of a histogram of the table with its labels bound."""
    return HistogramTally(metrics.histogram(name, **labels))


def flush() -> None:
    """Hand everything over."""
    for tally in _tallies:
        tally.flush()
