"""Tells Locust what was answered, some answers at a time.

Locust's own listener of `events.request` costs five microseconds a request, in two entries of its
statistics. The same numbers are reached by what its master does with the reports of its workers: a
StatsEntry that is added to another with `extend`. Failures go through the event one by one; and if anybody
else listens to the event, then everything does.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence

import locust.stats
from locust.env import Environment
from locust.stats import RequestStats, StatsEntry

METHOD = "POST"


class LocustReport:
    """Locust's statistics of one process."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def answered(self, name: str, latencies_ms: Sequence[float], length: int) -> None:
        """Good answers of one name, and the sum of their lengths in bytes."""
        if not latencies_ms:
            return
        if self._is_watched():
            mean = length // len(latencies_ms)
            for latency_ms in latencies_ms:
                self._fire(name, latency_ms, mean, None)
            return
        stats = self._environment.stats
        batch = _entry(stats, name, latencies_ms, length)
        stats.total.extend(batch)
        stats.entries[(name, METHOD)].extend(batch)

    def failed(self, name: str, latency_ms: float, reason: str) -> None:
        """A request whose outcome is not what it must be, or not known."""
        self._fire(name, latency_ms, 0, RuntimeError(reason))

    def _is_watched(self) -> bool:
        handlers = self._environment.events.request._handlers
        return any(handler.__module__ != "locust.runners" for handler in handlers)

    def _fire(self, name: str, latency_ms: float, length: int, failure: Exception | None) -> None:
        self._environment.events.request.fire(  # type: ignore[no-untyped-call]
            request_type=METHOD,
            name=name,
            response_time=latency_ms,
            response_length=length,
            response=None,
            context={},
            exception=failure,
            start_time=time.time() - latency_ms / 1000,
            url=name,
        )


def _entry(stats: RequestStats, name: str, latencies_ms: Sequence[float], length: int) -> StatsEntry:
    """What `log` would have made of these answers, one after the other."""
    entry = StatsEntry(stats, name, METHOD)
    now_s = time.time()
    entry.start_time = stats.total.start_time
    entry.num_requests = len(latencies_ms)
    entry.num_reqs_per_sec = defaultdict(int, {int(now_s): len(latencies_ms)})
    entry.last_request_timestamp = now_s
    # Locust says int and takes what comes: its own listener is given fractions of a millisecond too.
    entry.total_response_time = sum(latencies_ms)  # type: ignore[arg-type]
    entry.min_response_time = min(latencies_ms)  # type: ignore[assignment]
    entry.max_response_time = max(latencies_ms)  # type: ignore[assignment]
    entry.response_times = defaultdict(int, Counter(map(locust.stats.bucket_response_time, latencies_ms)))
    entry.total_content_length = length
    return entry
