"""Rows in the binary format of Postgres' COPY.

COPY fills and logs a page at a time where INSERT goes row by row, and a row is packed here in one call where
every element of an array would pass through a codec: together they halve what a booking costs.
The format: https://www.postgresql.org/docs/current/sql-copy.html (Binary Format). A row is the number of its
fields, and each field is its length, -1 for NULL, and its bytes. A time is microseconds since 2000.
"""

import functools
import struct
from binascii import unhexlify
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from engine import ids
from engine.fold import Event, Row
from engine.fold_queue import QueueChanges
from engine.ids import CellId

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_ORIGIN_MS = 946_684_800_000
"""The year 2000, where the times of Postgres begin."""
_UUID_BYTES = 16
_EVENT_BEGINS_MAX = 256


class NotARow(Exception):
    """Something does not fit into its column; the message says what."""


class Table(NamedTuple):
    """Where rows go."""

    name: str
    columns: tuple[str, ...]


BOOKINGS = Table(
    "bookings",
    (
        # What is the same in all of a batch, or nearly all, and is packed once.
        *("event_id", "version", "status", "ledger_epoch", "currency"),
        *("confirmed_at", "ended_at", "confirmation_code"),
        *(
            "id",
            "user_id",
            "quantity",
            "total_minor",
            "created_at",
            "expires_at",
            "ledger_seq",
            "fingerprint",
        ),
    ),
)
ITEMS = Table("booking_items", ("booking_id", "zone_id", "quantity", "unit_price_minor"))
OUTBOX = Table("outbox", ("aggregate_type", "event_type", "version", "aggregate_id", "payload"))
PLACES = Table("queue_places", ("event_ref", "cell", "joined_at", "ended_at", "number", "user_id"))

_pack_booking = struct.Struct(">i16s i16s ii iq iq iq iq i").pack
_pack_item = struct.Struct(">h i16s i16s ii iq").pack
_pack_place = struct.Struct(">ii i16s").pack
_pack_length = struct.Struct(">i").pack
_pack_int = struct.Struct(">ii").pack
_pack_long = struct.Struct(">iq").pack
_pack_count = struct.Struct(">h").pack


@contextmanager
def _fitting() -> Iterator[None]:
    try:
        yield
    except (struct.error, ValueError, OverflowError) as error:
        raise NotARow(str(error)) from None


def _id(text: str) -> bytes:
    found = unhexlify(text.replace("-", ""))
    if len(found) != _UUID_BYTES:
        raise ValueError(f"not a UUID: {text!r}")
    return found


def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    encoded = value.encode()
    return _pack_length(len(encoded)) + encoded


def _time(at_ms: int | None) -> bytes:
    return _NULL if at_ms is None else _pack_long(8, (at_ms - _ORIGIN_MS) * 1000)


def reserved_rows(cell_id: CellId, epoch: int, made: Iterable[Row]) -> tuple[bytes, bytes]:
    """The bookings that were reserved, as the batch leaves them, and their items. Raises NotARow."""
    bookings, items = [_HEADER], [_HEADER]
    event_id = ids.make_id(cell_id.event_ref, 0, 0).bytes
    begins: dict[str, bytes] = {}
    zones: dict[str, bytes] = {}
    with _fitting():
        for row in made:
            reserve = row.reserve
            assert reserve is not None
            booking_id = _id(reserve.booking_id)
            quantity = total_minor = 0
            for item in reserve.items:
                zone = zones.get(item.zone_id)
                if zone is None:
                    zone = zones[item.zone_id] = _id(item.zone_id)
                count, price_minor = item.quantity, item.unit_price_minor
                quantity += count
                total_minor += count * price_minor
                items.append(_pack_item(4, 16, booking_id, 16, zone, 4, count, 8, price_minor))
            begin = begins.get(reserve.currency) if row.version == 1 else _begin(event_id, epoch, row)
            if begin is None:
                begin = begins[reserve.currency] = _begin(event_id, epoch, row)
            fingerprint = reserve.fingerprint.encode()
            # fmt: off
            bookings += begin, _pack_booking(
                16, booking_id, 16, _id(reserve.user_id), 4, quantity, 8, total_minor,
                8, (reserve.at_ms - _ORIGIN_MS) * 1000, 8, (reserve.expires_at_ms - _ORIGIN_MS) * 1000,
                8, row.seq, len(fingerprint) or -1,
            ), fingerprint
            # fmt: on
    items.append(_TRAILER)
    bookings.append(_TRAILER)
    return b"".join(bookings), b"".join(items)


def _begin(event_id: bytes, epoch: int, row: Row) -> bytes:
    assert row.reserve is not None
    fields = (
        *(_pack_length(_UUID_BYTES), event_id, _pack_int(4, row.version), _text(row.status)),
        *(_pack_long(8, epoch), _text(row.reserve.currency)),
        *(_time(row.confirmed_at_ms), _time(row.ended_at_ms), _text(row.code)),
    )
    return _pack_count(len(BOOKINGS.columns)) + b"".join(fields)


@functools.lru_cache(_EVENT_BEGINS_MAX)
def _event_begin(kind: str, version: int) -> bytes:
    begin = _pack_count(len(OUTBOX.columns)) + _text("booking") + _text(kind)
    return begin + _pack_long(8, version) + _pack_length(_UUID_BYTES)


def event_rows(events: Iterable[Event]) -> bytes:
    """Rows of the outbox. Raises NotARow."""
    rows = [_HEADER]
    with _fitting():
        for booking_id, version, kind, payload in events:
            rows += _event_begin(kind, version), _id(booking_id), _pack_length(len(payload)), payload
    rows.append(_TRAILER)
    return b"".join(rows)


def place_rows(cell_id: CellId, changes: QueueChanges) -> bytes:
    """The places that people were given, as the batch leaves them. Raises NotARow."""
    rows = [_HEADER]
    begin = _pack_count(len(PLACES.columns)) + _pack_long(8, cell_id.event_ref) + _pack_int(4, cell_id.cell)
    ended = changes.ended
    with _fitting():
        for join in changes.joins:
            joined = begin + _time(join.at_ms)
            waits = joined + _NULL
            for number, user_id in enumerate(join.users, join.first_number):
                left = ended.get(number) if ended else None
                rows += (
                    waits if left is None else joined + _time(left[1]),
                    _pack_place(4, number, 16, _id(user_id)),
                )
    rows.append(_TRAILER)
    return b"".join(rows)
