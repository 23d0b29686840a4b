"""Adding up a run of ledger entries, in memory: what it does to the rows of Postgres."""

from collections.abc import Sequence
from datetime import datetime
from typing import assert_never
from uuid import UUID

import msgspec

from engine import ids
from engine.ledger import Cancel, Confirm, Edit, Expire, Item, Line, Open, Reject, Reserve, Unreadable
from engine.times import from_ms


class Orphaned(Exception):
    """Some entries change what Postgres does not have."""


class Row(msgspec.Struct):
    """A booking as the batch leaves it; `reserve` is None for one of an earlier batch."""

    reserve: Reserve | None
    version_before: int
    status: str
    version: int
    seq: int
    confirmed_at: datetime | None = None
    ended_at: datetime | None = None
    code: str | None = None


class Counters(msgspec.Struct):
    """By how much a zone's counters move."""

    capacity: int = 0
    available: int = 0
    reserved: int = 0
    confirmed: int = 0
    blocked: int = 0


class Changes(msgspec.Struct):
    """What a run of entries does to the tables."""

    bookings: dict[UUID, Row] = {}
    zones: dict[UUID, Counters] = {}
    events: list[tuple[UUID, int, str, bytes]] = []
    edits: list[Edit] = []

    def zone(self, zone_id: UUID) -> Counters:
        """The counters of one zone, to be added to."""
        counters = self.zones.get(zone_id)
        if counters is None:
            counters = self.zones[zone_id] = Counters()
        return counters


_encode = msgspec.json.Encoder().encode


def fold(lines: Sequence[Line]) -> Changes:
    """Add up a run of entries. Raises Orphaned for an entry that cannot belong to any booking row."""
    changes = Changes()
    for line in lines:
        entry = line.entry
        match entry:
            case Open():
                pass
            case Reserve():
                if entry.booking_id in changes.bookings:
                    raise Orphaned(f"{entry.booking_id} is reserved twice")
                row = Row(reserve=entry, version_before=0, status="reserved", version=1, seq=line.seq)
                changes.bookings[entry.booking_id] = row
                for item in entry.items:
                    counters = changes.zone(item.zone_id)
                    counters.available -= item.quantity
                    counters.reserved += item.quantity
                add_event(changes, "booking.reserved", entry, 1)
            case Confirm():
                row = _moved(changes, entry, "confirmed", line.seq)
                row.confirmed_at, row.code = from_ms(entry.at_ms), entry.code
                for item in entry.items:
                    counters = changes.zone(item.zone_id)
                    counters.reserved -= item.quantity
                    counters.confirmed += item.quantity
                add_event(changes, "booking.confirmed", entry, entry.version)
            case Cancel():
                _give_back(changes, entry, "cancelled", line.seq)
                add_event(changes, "booking.cancelled", entry, entry.version)
            case Expire():
                _give_back(changes, entry, "expired", line.seq)
                add_event(changes, "booking.expired", entry, entry.version)
            case Reject():
                # Not to be added up with others: what Postgres has of it is found row by row.
                raise Orphaned(f"{entry.booking_id} was refused")
            case Unreadable():
                raise Orphaned(entry.reason)
            case Edit():
                changes.edits.append(entry)
                for change in entry.changes:
                    counters = changes.zone(change.zone_id)
                    counters.capacity += change.capacity
                    counters.available += change.available
                    counters.blocked += change.blocked
            case _:
                assert_never(entry)
    return changes


def _moved(changes: Changes, entry: Confirm | Cancel | Expire, status: str, seq: int) -> Row:
    row = changes.bookings.get(entry.booking_id)
    if row is None:
        row = Row(reserve=None, version_before=entry.version - 1, status="", version=entry.version - 1, seq=0)
        changes.bookings[entry.booking_id] = row
    if row.version != entry.version - 1:
        raise Orphaned(f"{entry.booking_id} has version {row.version}, the entry makes {entry.version}")
    row.status, row.version, row.seq = status, entry.version, seq
    return row


def _give_back(changes: Changes, entry: Cancel | Expire, status: str, seq: int) -> None:
    row = _moved(changes, entry, status, seq)
    row.ended_at = from_ms(entry.at_ms)
    for item in entry.items:
        counters = changes.zone(item.zone_id)
        counters.available += item.quantity
        if entry.was == "reserved":
            counters.reserved -= item.quantity
        else:
            counters.confirmed -= item.quantity


class _Payload(msgspec.Struct):
    booking_id: UUID
    event_id: UUID
    user_id: UUID
    version: int
    at_ms: int
    items: list[Item]


def add_event(
    changes: Changes, kind: str, entry: Reserve | Confirm | Cancel | Expire | Reject, version: int
) -> None:
    """Note the domain event that an entry is."""
    payload = _Payload(
        booking_id=entry.booking_id,
        event_id=ids.event_id_of(entry.booking_id),
        user_id=entry.user_id,
        version=version,
        at_ms=entry.at_ms,
        items=entry.items,
    )
    changes.events.append((entry.booking_id, version, kind, _encode(payload)))
