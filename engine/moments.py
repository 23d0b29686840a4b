"""Moments that somebody sends: with an offset, in years that one can mean, cut to milliseconds."""

from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta

from engine.errors import ValidationFailed

TIME_MIN = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
TIME_MAX = datetime(2200, 1, 1, tzinfo=UTC)

Moment = Annotated[datetime, Meta(tz=True)]


def moment(field: str, value: datetime) -> datetime:
    """The time in UTC, cut to milliseconds; raises ValidationFailed for one that nobody can mean."""
    # Compared before it is converted: near the ends of the calendar an offset overflows.
    if not TIME_MIN.year <= value.year <= TIME_MAX.year:
        raise ValidationFailed(field, f"must lie between {TIME_MIN.year} and {TIME_MAX.year}")
    utc = value.astimezone(UTC)
    if not TIME_MIN <= utc <= TIME_MAX:
        raise ValidationFailed(field, f"must lie between {TIME_MIN.year} and {TIME_MAX.year}")
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)
