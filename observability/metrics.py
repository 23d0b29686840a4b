"""Every metric of the system, in one table.

Processes count on their own; where the supervisor gives them a common PROMETHEUS_MULTIPROC_DIR,
prometheus-client keeps the values in files there and any gateway shows the sum of all processes.
"""

from functools import cache
from typing import Any, Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

REGISTRY = CollectorRegistry()

_LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metric(msgspec.Struct, frozen=True):
    """One row of the table. `when` says what makes it move, and is its help text."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    when: str
    across: Literal["livesum", "livemax", "mostrecent"] = "livesum"
    """Gauges only: what the values of several processes make together."""


METRICS = (
    Metric("http_requests_total", "counter", ("method", "route", "status"), "a request was answered"),
    Metric("http_request_duration_seconds", "histogram", ("method", "route"), "a request was answered"),
    Metric("booking_reservations_total", "counter", (), "a reservation was answered 201, replays included"),
    Metric("booking_reservation_failures", "counter", ("reason",), "a reservation was refused: the code"),
    Metric("hot_line_in_flight", "gauge", (), "calls on the hot line that wait for Redis' reply"),
    Metric("queue_joins_total", "counter", ("outcome",), "somebody joined a queue: new, or again"),
    Metric("queue_polls_total", "counter", (), "somebody was told how they stand in a queue"),
    Metric(
        "queue_passes_claimed_total", "counter", (), "a pass was handed out, the same one again not counted"
    ),
    Metric("queue_streams", "gauge", (), "people who watch their place in a queue by a stream"),
    Metric(
        "queue_streams_dropped_total", "counter", (), "a stream was ended because its client did not read"
    ),
    Metric(
        "queue_view_age_seconds",
        "gauge",
        (),
        "the age of the oldest look at a queue that people are told of",
        "livemax",
    ),
    Metric("relay_lag_entries", "gauge", (), "ledger entries not yet in Postgres", "mostrecent"),
    Metric("relay_entries_total", "counter", (), "a ledger entry was committed in Postgres"),
    Metric("relay_batches_total", "counter", ("outcome",), "the relay ended a batch's transaction"),
    Metric("dead_letters_total", "counter", (), "Postgres refused a ledger entry"),
    Metric("holds_expired_total", "counter", (), "a hold was taken back by the expiry worker"),
    Metric("recovery_lifts_total", "counter", (), "recovery lifted a fenced node"),
    Metric("recovery_cells_total", "counter", (), "recovery brought a cell of a lifted node back"),
    Metric("audit_violations", "gauge", ("rule",), "violations of a rule at the last look", "mostrecent"),
    Metric(
        "audit_cells", "gauge", ("outcome",), "cells at the last look: clean, violated, blind", "mostrecent"
    ),
    Metric("audit_seconds", "gauge", (), "how long the auditor's last round took", "mostrecent"),
    Metric(
        "audit_last_success_timestamp_seconds",
        "gauge",
        (),
        "the auditor could look at all cells",
        "mostrecent",
    ),
    Metric("queue_admitted_total", "counter", (), "the admission worker let somebody in"),
    Metric(
        "queue_waiting_people", "gauge", (), "places that are not served yet, in all queues", "mostrecent"
    ),
    Metric(
        "queue_passes_out", "gauge", (), "passes out, with the slots kept for those just served", "mostrecent"
    ),
    Metric(
        "admission_last_success_timestamp_seconds",
        "gauge",
        (),
        "the admission worker could move a queue",
        "mostrecent",
    ),
    Metric(
        "lotteries_undrawn",
        "gauge",
        ("why",),
        "lotteries that are frozen and not drawn: the round is not entered, Redis is away, they are broken",
        "mostrecent",
    ),
    Metric("outbox_deleted_total", "counter", (), "a domain event left the outbox"),
)


def _make(metric: Metric) -> Counter | Gauge | Histogram:
    match metric.type:
        case "counter":
            return Counter(metric.name, metric.when, metric.labels, registry=REGISTRY)
        case "gauge":
            return Gauge(
                metric.name, metric.when, metric.labels, registry=REGISTRY, multiprocess_mode=metric.across
            )
        case "histogram":
            return Histogram(
                metric.name, metric.when, metric.labels, registry=REGISTRY, buckets=_LATENCY_BUCKETS_S
            )


_by_name: dict[str, Any] = {metric.name: _make(metric) for metric in METRICS}


def _child(name: str, labels: dict[str, str]) -> Any:
    metric = _by_name[name]
    return metric.labels(**labels) if labels else metric


def counter(name: str, **labels: str) -> Counter:
    """A counter of the table with its labels bound; keep it where it is used often."""
    child: Counter = _child(name, labels)
    return child


def gauge(name: str, **labels: str) -> Gauge:
    """A gauge of the table with its labels bound."""
    child: Gauge = _child(name, labels)
    return child


def histogram(name: str, **labels: str) -> Histogram:
    """A histogram of the table with its labels bound."""
    child: Histogram = _child(name, labels)
    return child


@cache
def request_count(method: str, route: str, status: int) -> Counter:
    """The counter of one kind of answer; the route table bounds how many there are."""
    return counter("http_requests_total", method=method, route=route, status=str(status))


@cache
def request_duration(method: str, route: str) -> Histogram:
    """The histogram of one route."""
    return histogram("http_request_duration_seconds", method=method, route=route)


def exposition() -> bytes:
    """All values in Prometheus' text format; reads files in multiprocess mode, so call it in a thread."""
    if values.ValueClass.__name__ == "MmapedValue":
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
    return generate_latest(REGISTRY)
