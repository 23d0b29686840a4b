"""Times: milliseconds since 1970 inside, RFC 3339 at the edge."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(at_ms: int) -> str:
    """UTC with milliseconds and `Z`: 2026-01-31T09:00:00.000Z."""
    moment = _EPOCH + timedelta(milliseconds=at_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_ms(at_ms: int) -> datetime:
    """The moment as Postgres takes it."""
    return _EPOCH + timedelta(milliseconds=at_ms)


def to_ms(moment: datetime) -> int:
    """Milliseconds since 1970, rounded down."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)
