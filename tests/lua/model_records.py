"""The zones and bookings of the model."""

import json
from typing import Any

import msgspec

from engine.booking import RECORD_FIELDS

RECORD_TEXT = [
    "status",
    "version",
    "seq",
    "user",
    "fingerprint",
    "quantity",
    "total_minor",
    "currency",
    "created_at_ms",
    "expires_at_ms",
    "confirmed_at_ms",
    "ended_at_ms",
    "code",
    "items",
]
"""The fields of a record's text, spelled once more than in the product so that it cannot change unseen."""

Item = tuple[str, int, int, str]
"""Zone, quantity, price_minor, show."""


def record_text(fields: dict[str, Any]) -> str:
    """The text of a record with these fields."""
    return " ".join(str(fields.get(name, "")) or "-" for name in RECORD_TEXT)


def record_fields(text: str) -> dict[str, str]:
    """The fields that a record's text has; who has no fingerprint has an empty one."""
    found = dict(zip(RECORD_TEXT, text.split(" "), strict=True))
    return {"fingerprint": ""} | {name: word for name, word in found.items() if word != "-"}


class ModelZone(msgspec.Struct):
    """A zone; how many of it are taken is the bookings' business."""

    show: str
    price_minor: int
    max_per_order: int
    capacity: int
    blocked: int


class ModelBooking(msgspec.Struct):
    """A booking."""

    id: str
    user: str
    fingerprint: str
    items: list[Item]
    currency: str
    created_at_ms: int
    expires_at_ms: int
    seq: str
    status: str = "reserved"
    version: int = 1
    confirmed_at_ms: int | None = None
    code: str | None = None
    ended_at_ms: int | None = None

    @property
    def quantity(self) -> int:
        """Units over all items."""
        return sum(item[1] for item in self.items)

    @property
    def is_living(self) -> bool:
        """Whether it has seats."""
        return self.status in ("reserved", "confirmed")

    def of_zone(self, zone_id: str) -> int:
        """How many seats of this zone it has or had."""
        return sum(item[1] for item in self.items if item[0] == zone_id)

    def record(self) -> dict[str, Any]:
        """The fields that Redis holds, as text."""
        total_minor = sum(item[1] * item[2] for item in self.items)
        fields = {
            "user": self.user,
            "status": self.status,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "items": json.dumps(self.items, separators=(",", ":")),
            "quantity": self.quantity,
            "total_minor": total_minor,
            "currency": self.currency,
            "created_at_ms": self.created_at_ms,
            "expires_at_ms": self.expires_at_ms,
            "confirmed_at_ms": self.confirmed_at_ms,
            "code": self.code,
            "seq": self.seq,
            "ended_at_ms": self.ended_at_ms,
        }
        return {name: str(value) for name, value in fields.items() if value is not None}

    def taken(self) -> tuple[Any, ...]:
        """What reserve answers of a new booking, as text."""
        record = self.record()
        names = ("items", "quantity", "total_minor", "currency", "created_at_ms", "expires_at_ms")
        return tuple(record[name].encode() for name in names)

    def answered(self) -> tuple[Any, ...]:
        """The record as a script returns it: text, in the order of the table, without the end."""
        record = self.record()
        return tuple(record[name].encode() if name in record else None for name in RECORD_FIELDS)
