"""Adding up a run of ledger entries, in memory: what it does to the rows of Postgres."""

from collections.abc import Sequence
from typing import assert_never

import msgspec

from engine.fold_queue import Orphaned, QueueChanges, fold_queue, spend
from engine.ledger import Admit, Draw, Edit, Freeze, Open
from engine.lines import (
    Cancel,
    Claim,
    Confirm,
    Expire,
    Item,
    Join,
    Lapse,
    Leave,
    Line,
    Reject,
    Reserve,
    Unreadable,
)


class Row(msgspec.Struct, gc=False):
    """A booking as the batch leaves it; `reserve` is None for one of an earlier batch."""

    reserve: Reserve | None
    version_before: int
    status: str
    version: int
    seq: int
    confirmed_at_ms: int | None = None
    ended_at_ms: int | None = None
    code: str | None = None


class Counters(msgspec.Struct):
    """By how much a zone's counters move."""

    capacity: int = 0
    available: int = 0
    reserved: int = 0
    confirmed: int = 0
    blocked: int = 0


Event = tuple[str, int, str, bytes]
"""A domain event: the booking, its version, the event's name, and what it says as JSON."""


class Changes(msgspec.Struct):
    """What a run of entries does to the tables; ids as text."""

    bookings: dict[str, Row] = {}
    zones: dict[str, Counters] = {}
    events: list[Event] = []
    edits: list[Edit] = []
    queue: QueueChanges = msgspec.field(default_factory=QueueChanges)

    def zone(self, zone_id: str) -> Counters:
        """The counters of one zone, to be added to."""
        counters = self.zones.get(zone_id)
        if counters is None:
            counters = self.zones[zone_id] = Counters()
        return counters


_encode = msgspec.json.Encoder().encode


def fold(lines: Sequence[Line]) -> Changes:
    """Add up a run of entries. Raises Orphaned for an entry that cannot belong to any booking row."""
    changes = Changes()
    bookings = changes.bookings
    for line in lines:
        entry = line.entry
        match entry:
            case Reserve():
                if entry.booking_id in bookings:
                    raise Orphaned(f"{entry.booking_id} is reserved twice")
                bookings[entry.booking_id] = Row(entry, 0, "reserved", 1, line.seq)
                for item in entry.items:
                    counters = changes.zone(item.zone_id)
                    counters.available -= item.quantity
                    counters.reserved += item.quantity
                if entry.has_pass:
                    spend(changes.queue, entry)
                changes.events.append(event_of("booking.reserved", entry, 1))
            case Confirm():
                row = _moved(changes, entry, "confirmed", line.seq)
                row.confirmed_at_ms, row.code = entry.at_ms, entry.code
                for item in entry.items:
                    counters = changes.zone(item.zone_id)
                    counters.reserved -= item.quantity
                    counters.confirmed += item.quantity
                changes.events.append(event_of("booking.confirmed", entry, entry.version))
            case Cancel():
                _give_back(changes, entry, "cancelled", line.seq)
                changes.events.append(event_of("booking.cancelled", entry, entry.version))
            case Expire():
                _give_back(changes, entry, "expired", line.seq)
                changes.events.append(event_of("booking.expired", entry, entry.version))
            case Open():
                pass
            case Reject():
                # Not to be added up with others: what Postgres has of it is found row by row.
                raise Orphaned(f"{entry.booking_id} was refused")
            case Unreadable():
                raise Orphaned(entry.reason)
            case Edit():
                changes.edits.append(entry)
                for change in entry.changes:
                    counters = changes.zone(str(change.zone_id))
                    counters.capacity += change.capacity
                    counters.available += change.available
                    counters.blocked += change.blocked
            case Join() | Leave() | Freeze() | Draw() | Admit() | Claim() | Lapse():
                fold_queue(changes.queue, entry, line.seq)
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
    row.ended_at_ms = entry.at_ms
    for item in entry.items:
        counters = changes.zone(item.zone_id)
        counters.available += item.quantity
        if entry.was == "reserved":
            counters.reserved -= item.quantity
        else:
            counters.confirmed -= item.quantity


class _Payload(msgspec.Struct, gc=False):
    """What the columns of the outbox do not say: they have the booking's id, which names its event, and its
    version."""

    user_id: str
    at_ms: int
    items: list[Item]


def event_of(kind: str, entry: Reserve | Confirm | Cancel | Expire | Reject, version: int) -> Event:
    """The domain event that an entry is."""
    return entry.booking_id, version, kind, _encode(_Payload(entry.user_id, entry.at_ms, entry.items))
