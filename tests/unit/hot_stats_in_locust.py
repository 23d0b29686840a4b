"""Run by test_bench.py: the same answers told one by one and in batches give the same statistics."""

import random
from typing import Any

from locust.env import Environment

from loadtest.hot_stats import LocustReport

FIELDS = (
    "num_requests", "num_failures", "num_none_requests", "min_response_time", "max_response_time",
    "response_times", "total_content_length",
)  # fmt: skip


def environment() -> Environment:
    made = Environment()
    made.create_local_runner()
    return made


def figures(made: Environment) -> list[Any]:
    entries = [made.stats.total, *(entry for _, entry in sorted(made.stats.entries.items()))]
    return [
        (
            entry.name,
            [getattr(entry, field) for field in FIELDS],
            round(entry.total_response_time, 6),
            sum(entry.num_reqs_per_sec.values()),
            sum(entry.num_fail_per_sec.values()),
            [entry.get_response_time_percentile(percent) for percent in (0.5, 0.95, 0.99, 0.999)],
        )
        for entry in entries
    ]


def main() -> None:
    choice = random.Random(1)
    one_by_one, in_batches, watched = environment(), environment(), environment()
    seen: list[float] = []
    watched.events.request.add_listener(lambda response_time, **_: seen.append(response_time))
    reports = {each: LocustReport(each) for each in (in_batches, watched)}
    for batch in range(50):
        for name in ("reserve", "reserve: replayed"):
            latencies_ms = [choice.expovariate(1 / 40) for _ in range(choice.randrange(60))]
            for latency_ms in latencies_ms:
                one_by_one.events.request.fire(
                    request_type="POST", name=name, response_time=latency_ms, response_length=500
                )
            for report in reports.values():
                report.answered(name, latencies_ms, 500 * len(latencies_ms))
        if batch % 10 == 0:
            one_by_one.events.request.fire(
                request_type="POST",
                name="unknown",
                response_time=9.0,
                response_length=0,
                exception=OSError("x"),
            )
            for report in reports.values():
                report.failed("unknown", 9.0, "x")
    assert figures(one_by_one) == figures(in_batches), (figures(one_by_one), figures(in_batches))
    assert figures(one_by_one) == figures(watched)
    assert len(seen) == one_by_one.stats.total.num_requests, "who listens hears of every request"


main()
