"""The server's own histogram of how long reservations took, from /metrics."""

import re
import urllib.request

TIMEOUT_S = 10
_BUCKET = re.compile(r"^http_request_duration_seconds_bucket\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Buckets = dict[float, float]
"""Upper bound in seconds → how many took no longer."""


def read_buckets(url: str, route: str) -> Buckets:
    """The cumulative buckets of one route, POST; raises OSError where nobody answers."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=TIMEOUT_S) as answer:  # noqa: S310 - loopback
        return parse_buckets(answer.read().decode(), route)


def parse_buckets(text: str, route: str) -> Buckets:
    """The same from the text of /metrics."""
    found: Buckets = {}
    for labels_text, value in _BUCKET.findall(text):
        labels = dict(_LABEL.findall(labels_text))
        if labels.get("route") == route and labels.get("method") == "POST":
            bound_s = float(labels["le"])
            found[bound_s] = found.get(bound_s, 0.0) + float(value)
    return found


def since(after: Buckets, before: Buckets) -> Buckets:
    """What was counted in between."""
    return {bound_s: count - before.get(bound_s, 0.0) for bound_s, count in after.items()}


def percentile_ms(buckets: Buckets, percent: float) -> float | None:
    """The percentile, linear within its bucket as Prometheus' histogram_quantile has it; None for none.

    Above the highest bound it is that bound.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank = buckets[bounds[-1]] * percent / 100
    below_s, below = 0.0, 0.0
    for bound_s in bounds:
        if buckets[bound_s] >= rank:
            if bound_s == float("inf"):
                return below_s * 1000
            inside = buckets[bound_s] - below
            share = (rank - below) / inside if inside else 1.0
            return (below_s + (bound_s - below_s) * share) * 1000
        below_s, below = bound_s, buckets[bound_s]
    return below_s * 1000
