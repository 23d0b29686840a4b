"""Tallies: what they hand over is what the metric would have counted itself."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from observability import tallies
from observability.tallies import CounterTally, HistogramTally

BOUNDS = (0.001, 0.01, 0.1)
AMOUNTS = (0.0, 0.0005, 0.001, 0.0011, 0.01, 0.05, 0.1, 0.2, 17.0)


@pytest.fixture(autouse=True)
def no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tallies of a test are not those of the process."""
    monkeypatch.setattr(tallies, "_tallies", [])


def samples(metric: Counter | Histogram) -> dict[tuple[str, str], float]:
    [family] = metric.collect()
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_a_counter_has_what_was_tallied_once_it_is_flushed() -> None:
    counter = Counter("things", "x", registry=CollectorRegistry())
    tally = CounterTally(counter)
    for _ in range(3):
        tally.count += 1
    assert samples(counter)["things_total", ""] == 0
    for _ in range(2):
        tallies.flush()
        assert samples(counter)["things_total", ""] == 3


def test_a_histogram_has_what_it_would_have_observed() -> None:
    registry = CollectorRegistry()
    expected = Histogram("expected", "x", buckets=BOUNDS, registry=registry)
    histogram = Histogram("expected_too", "x", buckets=BOUNDS, registry=registry)
    tally = HistogramTally(histogram)
    for _ in range(2):
        for amount in AMOUNTS:
            expected.observe(amount)
            tally.observe(amount)
        tallies.flush()
    tallies.flush()
    by_name = {
        (name.replace("_too", ""), bound): value for (name, bound), value in samples(histogram).items()
    }
    assert by_name == pytest.approx(samples(expected))


def test_one_metric_has_one_tally() -> None:
    assert tallies.counter("relay_entries_total") is tallies.counter("relay_entries_total")
