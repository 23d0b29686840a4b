"""A booking as the engine hands it out, and the two forms in which it is stored."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from engine import ids
from engine.ledger import Item, Position, parse_position
from engine.times import to_ms


class ItemRequest(msgspec.Struct, frozen=True):
    """What a buyer asks for: so many of a zone; `show_id` only where the request named it."""

    zone_id: UUID
    quantity: int
    show_id: UUID | None = None


class Booking(msgspec.Struct):
    """What a buyer owns."""

    id: UUID
    user_id: UUID
    event_id: UUID
    status: str
    durable: bool
    items: list[Item]
    quantity: int
    total_minor: int
    currency: str
    created_at_ms: int
    expires_at_ms: int
    confirmed_at_ms: int | None
    confirmation_code: str | None
    version: int
    position: Position
    """The ledger entry of its last transition."""


items_decoder = msgspec.json.Decoder(list[Item])

RECORD_FIELDS = (
    "user",
    "status",
    "version",
    "fingerprint",
    "items",
    "quantity",
    "total_minor",
    "currency",
    "created_at_ms",
    "expires_at_ms",
    "confirmed_at_ms",
    "code",
    "seq",
)
"""The record in Redis, in the order in which lua/lib/booking.lua reads it and the scripts return it."""


def from_record(booking_id: UUID, record: Sequence[Any]) -> Booking:
    """The booking in a Redis record (values of RECORD_FIELDS); not known to be durable."""
    (user, status, version, _, items, quantity, total, currency, created, expires, confirmed, code, seq) = (
        record
    )
    return Booking(
        id=booking_id,
        user_id=UUID(user.decode()),
        event_id=ids.event_id_of(booking_id),
        status=status.decode(),
        durable=False,
        items=items_decoder.decode(items),
        quantity=int(quantity),
        total_minor=int(total),
        currency=currency.decode(),
        created_at_ms=int(created),
        expires_at_ms=int(expires),
        confirmed_at_ms=None if confirmed is None else int(confirmed),
        confirmation_code=None if code is None else code.decode(),
        version=int(version),
        position=parse_position(seq),
    )


def from_row(row: Mapping[str, Any]) -> Booking:
    """The booking in a Postgres row of `find_booking` or `list_bookings`: durable by definition."""
    return Booking(
        id=row["id"],
        user_id=row["user_id"],
        event_id=row["event_id"],
        status=row["status"],
        durable=True,
        items=items_decoder.decode(row["items"] or "[]"),
        quantity=row["quantity"],
        total_minor=row["total_minor"],
        currency=row["currency"],
        created_at_ms=to_ms(row["created_at"]),
        expires_at_ms=to_ms(row["expires_at"]),
        confirmed_at_ms=to_ms(row["confirmed_at"]) if row["confirmed_at"] else None,
        confirmation_code=row["confirmation_code"],
        version=row["version"],
        position=Position(row["ledger_epoch"], row["ledger_seq"]),
    )
