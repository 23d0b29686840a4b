"""A booking as the engine hands it out, and the two forms in which it is stored: a text in Redis, a row."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
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


class Record(NamedTuple):
    """What Redis keeps of a booking: the fields of its text, in their order."""

    status: str
    version: int
    seq: str
    """`<epoch>-<seq>`: the ledger entry of its last transition."""
    user: str
    fingerprint: str
    """Empty for a booking without an Idempotency-Key."""
    quantity: int
    total_minor: int
    currency: str
    created_at_ms: int
    expires_at_ms: int
    confirmed_at_ms: int | None
    ended_at_ms: int | None
    code: str | None
    items: str
    """JSON, as in the ledger."""


_NONE = "-"
"""Stands for a field that is absent."""


def parse_record(text: bytes) -> Record:
    """The record of a value of `booking:<id>`; raises ValueError for one that no script of ours wrote."""
    words = text.decode().split(" ")
    if len(words) != len(Record._fields):
        raise ValueError(f"none of our records: {text!r}")
    status, version, seq, user, fingerprint, quantity, total, currency, created, expires = words[:10]
    confirmed, ended, code, items = words[10:]
    return Record(
        status=status,
        version=int(version),
        seq=seq,
        user=user,
        fingerprint="" if fingerprint == _NONE else fingerprint,
        quantity=int(quantity),
        total_minor=int(total),
        currency=currency,
        created_at_ms=int(created),
        expires_at_ms=int(expires),
        confirmed_at_ms=None if confirmed == _NONE else int(confirmed),
        ended_at_ms=None if ended == _NONE else int(ended),
        code=None if code == _NONE else code,
        items=items,
    )


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
"""The fields of a record that the scripts return, in their order."""


def from_reply(booking_id: UUID, reply: Sequence[Any]) -> Booking:
    """The booking in a script's reply (values of RECORD_FIELDS); not known to be durable."""
    (user, status, version, _, items, quantity, total, currency, created, expires, confirmed, code, seq) = (
        reply
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


def from_record(booking_id: UUID, record: Record) -> Booking:
    """The booking in a Redis record; not known to be durable."""
    return Booking(
        id=booking_id,
        user_id=UUID(record.user),
        event_id=ids.event_id_of(booking_id),
        status=record.status,
        durable=False,
        items=items_decoder.decode(record.items),
        quantity=record.quantity,
        total_minor=record.total_minor,
        currency=record.currency,
        created_at_ms=record.created_at_ms,
        expires_at_ms=record.expires_at_ms,
        confirmed_at_ms=record.confirmed_at_ms,
        confirmation_code=record.code,
        version=record.version,
        position=parse_position(record.seq),
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
