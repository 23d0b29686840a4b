"""The ledger's entries as rows: what the relay commits to Postgres.

`fold` turns a run of entries into the changes of whole tables, in memory; `commit_batch` writes them in
one transaction together with the offset. An entry that Postgres refuses is found by bisection and put
among the dead letters.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import assert_never
from uuid import UUID

import asyncpg
import msgspec

from engine import ids
from engine.ids import CellId
from engine.ledger import (
    Cancel,
    Confirm,
    Edit,
    Entry,
    Expire,
    Item,
    Open,
    Position,
    Reject,
    Reserve,
    Unreadable,
    decoder,
    parse_position,
)
from engine.sql import load_queries
from engine.stores import Connection
from engine.times import from_ms

queries = load_queries("relay")

ORPHAN_SQLSTATE = "RU001"
"""Our own state for an entry whose booking, at that version, or whose zone Postgres does not have."""


class StaleOffset(Exception):
    """The cell is not where this batch begins: another one was faster, or a newer epoch has begun."""


class Orphaned(Exception):
    """Some entries change what Postgres does not have."""


class Line(msgspec.Struct, frozen=True):
    """One ledger entry: its seq, what it says, and the text as it was."""

    seq: int
    entry: Entry | Unreadable
    text: bytes


class Batch(msgspec.Struct, frozen=True):
    """A run of entries of one epoch, dense, right after `from_seq`."""

    cell_id: CellId
    epoch: int
    from_seq: int
    lines: Sequence[Line]

    @property
    def before(self) -> Position:
        """The offset that the batch continues."""
        return Position(self.epoch, self.from_seq)

    @property
    def after(self) -> Position:
        """The offset once it is committed."""
        return Position(self.epoch, self.from_seq + len(self.lines))


class _Row(msgspec.Struct):
    """A booking as the batch leaves it; `reserve` is None for one of an earlier batch."""

    reserve: Reserve | None
    version_before: int
    status: str
    version: int
    seq: int
    confirmed_at: datetime | None = None
    ended_at: datetime | None = None
    code: str | None = None


class _Counters(msgspec.Struct):
    capacity: int = 0
    available: int = 0
    reserved: int = 0
    confirmed: int = 0
    blocked: int = 0


class Changes(msgspec.Struct):
    """What a run of entries does to the tables."""

    bookings: dict[UUID, _Row] = {}
    zones: dict[UUID, _Counters] = {}
    events: list[tuple[UUID, int, str, bytes]] = []
    edits: list[Edit] = []

    def zone(self, zone_id: UUID) -> _Counters:
        """The counters of one zone, to be added to."""
        counters = self.zones.get(zone_id)
        if counters is None:
            counters = self.zones[zone_id] = _Counters()
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
                row = _Row(reserve=entry, version_before=0, status="reserved", version=1, seq=line.seq)
                changes.bookings[entry.booking_id] = row
                for item in entry.items:
                    counters = changes.zone(item.zone_id)
                    counters.available -= item.quantity
                    counters.reserved += item.quantity
                _add_event(changes, "booking.reserved", entry, 1)
            case Confirm():
                row = _moved(changes, entry, "confirmed", line.seq)
                row.confirmed_at, row.code = from_ms(entry.at_ms), entry.code
                for item in entry.items:
                    counters = changes.zone(item.zone_id)
                    counters.reserved -= item.quantity
                    counters.confirmed += item.quantity
                _add_event(changes, "booking.confirmed", entry, entry.version)
            case Cancel():
                _give_back(changes, entry, "cancelled", line.seq)
                _add_event(changes, "booking.cancelled", entry, entry.version)
            case Expire():
                _give_back(changes, entry, "expired", line.seq)
                _add_event(changes, "booking.expired", entry, entry.version)
            case Reject():
                # Its booking was refused, so nothing of it is here to be changed.
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


def _moved(changes: Changes, entry: Confirm | Cancel | Expire, status: str, seq: int) -> _Row:
    row = changes.bookings.get(entry.booking_id)
    if row is None:
        row = _Row(
            reserve=None, version_before=entry.version - 1, status="", version=entry.version - 1, seq=0
        )
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


def _add_event(changes: Changes, kind: str, entry: Reserve | Confirm | Cancel | Expire, version: int) -> None:
    payload = _Payload(
        booking_id=entry.booking_id,
        event_id=ids.event_id_of(entry.booking_id),
        user_id=entry.user_id,
        version=version,
        at_ms=entry.at_ms,
        items=entry.items,
    )
    changes.events.append((entry.booking_id, version, kind, _encode(payload)))


def decode_line(seq: int, fields: Mapping[bytes, bytes]) -> Line:
    """Read one entry of the stream."""
    text = fields.get(b"e", b"")
    try:
        return Line(seq=seq, entry=decoder.decode(text), text=text)
    except (msgspec.MsgspecError, ValueError) as error:
        return Line(seq=seq, entry=Unreadable(str(error)), text=text)


def dense_lines(offset: Position, entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Line]:
    """The entries that continue the offset, up to the first that does not."""
    lines: list[Line] = []
    for id_, fields in entries:
        seq = offset.seq + len(lines) + 1
        if parse_position(id_) != Position(offset.epoch, seq):
            break
        lines.append(decode_line(seq, fields))
    return lines


async def commit_batch(connection: Connection, batch: Batch) -> list[UUID]:
    """Write a batch and move the offset, in one transaction.

    Returns the bookings that Postgres refused. Raises StaleOffset when the offset is not where the
    batch begins; then nothing was written.
    """
    async with connection.transaction():
        moved = await queries.advance_offset(
            connection,
            to_seq=batch.after.seq,
            event_ref=batch.cell_id.event_ref,
            cell=batch.cell_id.cell,
            epoch=batch.epoch,
            from_seq=batch.from_seq,
        )
        if moved != "UPDATE 1":
            raise StaleOffset(f"{batch.cell_id} is not at {batch.before}")
        rejected: dict[UUID, None] = {}
        await _write_or_bisect(connection, batch, batch.lines, rejected)
        return list(rejected)


async def _write_or_bisect(
    connection: Connection, batch: Batch, lines: Sequence[Line], rejected: dict[UUID, None]
) -> None:
    try:
        async with connection.transaction():
            await _write(connection, batch, fold(lines))
    except (Orphaned, OverflowError, asyncpg.PostgresError) as error:
        # OverflowError: a time that no calendar has.
        sqlstate = (error.sqlstate or "") if isinstance(error, asyncpg.PostgresError) else ORPHAN_SQLSTATE
        if sqlstate != ORPHAN_SQLSTATE and sqlstate[:2] not in ("22", "23"):
            raise
        if len(lines) == 1:
            await _bury(connection, batch, lines[0], sqlstate, str(error), rejected)
            return
        middle = len(lines) // 2
        await _write_or_bisect(connection, batch, lines[:middle], rejected)
        await _write_or_bisect(connection, batch, lines[middle:], rejected)


async def _bury(
    connection: Connection, batch: Batch, line: Line, sqlstate: str, reason: str, rejected: dict[UUID, None]
) -> None:
    booking_id = getattr(line.entry, "booking_id", None)
    await queries.insert_dead_letter(
        connection,
        event_ref=batch.cell_id.event_ref,
        cell=batch.cell_id.cell,
        epoch=batch.epoch,
        seq=line.seq,
        booking_id=booking_id,
        entry=_as_json(line),
        sqlstate=sqlstate,
        reason=reason,
        is_returned=isinstance(line.entry, Reject),
    )
    if booking_id is not None:
        rejected[booking_id] = None


def _as_json(line: Line) -> str:
    """The entry as it was; what is not JSON, or not to Postgres, becomes a JSON string without NULs."""
    if not isinstance(line.entry, Unreadable) and b"\\u0000" not in line.text:
        return line.text.decode()
    return _encode(line.text.decode(errors="replace").replace("\0", "\ufffd")).decode()


async def _write(connection: Connection, batch: Batch, changes: Changes) -> None:
    made = [(booking_id, row) for booking_id, row in changes.bookings.items() if row.reserve is not None]
    moved = [(booking_id, row) for booking_id, row in changes.bookings.items() if row.reserve is None]
    if made:
        await _insert_bookings(connection, batch.epoch, made)
    if moved:
        await _move_bookings(connection, batch.epoch, moved)
    if changes.zones:
        zones = sorted(changes.zones.items())
        done = await queries.move_counters(
            connection,
            zone_ids=[zone_id for zone_id, _ in zones],
            capacities=[counters.capacity for _, counters in zones],
            availables=[counters.available for _, counters in zones],
            reserveds=[counters.reserved for _, counters in zones],
            confirmeds=[counters.confirmed for _, counters in zones],
            blockeds=[counters.blocked for _, counters in zones],
        )
        _expect(done, len(zones), "zones")
    if changes.events:
        booking_ids, versions, kinds, payloads = zip(*changes.events, strict=True)
        await queries.insert_outbox(
            connection,
            booking_ids=booking_ids,
            versions=versions,
            event_types=kinds,
            payloads=[payload.decode() for payload in payloads],
        )
    if changes.edits:
        await _decide_edits(connection, batch.cell_id, changes.edits)


def _expect(done: str, count: int, what: str) -> None:
    if int(done.rpartition(" ")[2]) != count:
        raise Orphaned(f"{done} of {count} {what}")


async def _insert_bookings(connection: Connection, epoch: int, made: list[tuple[UUID, _Row]]) -> None:
    reserves = [row.reserve for _, row in made if row.reserve is not None]
    await queries.insert_bookings(
        connection,
        ids=[booking_id for booking_id, _ in made],
        event_ids=[ids.event_id_of(booking_id) for booking_id, _ in made],
        user_ids=[reserve.user_id for reserve in reserves],
        statuses=[row.status for _, row in made],
        versions=[row.version for _, row in made],
        fingerprints=[reserve.fingerprint or None for reserve in reserves],
        quantities=[sum(item.quantity for item in reserve.items) for reserve in reserves],
        totals=[sum(item.quantity * item.unit_price_minor for item in reserve.items) for reserve in reserves],
        currencies=[reserve.currency for reserve in reserves],
        created_ats=[from_ms(reserve.at_ms) for reserve in reserves],
        expires_ats=[from_ms(reserve.expires_at_ms) for reserve in reserves],
        confirmed_ats=[row.confirmed_at for _, row in made],
        ended_ats=[row.ended_at for _, row in made],
        codes=[row.code for _, row in made],
        epochs=[epoch] * len(made),
        seqs=[row.seq for _, row in made],
    )
    items = [(reserve.booking_id, item) for reserve in reserves for item in reserve.items]
    await queries.insert_items(
        connection,
        booking_ids=[booking_id for booking_id, _ in items],
        zone_ids=[item.zone_id for _, item in items],
        quantities=[item.quantity for _, item in items],
        prices=[item.unit_price_minor for _, item in items],
    )


async def _move_bookings(connection: Connection, epoch: int, moved: list[tuple[UUID, _Row]]) -> None:
    done = await queries.move_bookings(
        connection,
        ids=[booking_id for booking_id, _ in moved],
        versions_before=[row.version_before for _, row in moved],
        statuses=[row.status for _, row in moved],
        versions=[row.version for _, row in moved],
        confirmed_ats=[row.confirmed_at for _, row in moved],
        ended_ats=[row.ended_at for _, row in moved],
        codes=[row.code for _, row in moved],
        epochs=[epoch] * len(moved),
        seqs=[row.seq for _, row in moved],
    )
    _expect(done, len(moved), "bookings")


async def _decide_edits(connection: Connection, cell_id: CellId, edits: list[Edit]) -> None:
    await queries.decide_edits(
        connection,
        versions=[edit.version for edit in edits],
        outcomes=[edit.outcome for edit in edits],
        ats=[from_ms(edit.at_ms) for edit in edits],
        event_ref=cell_id.event_ref,
        cell=cell_id.cell,
    )
    await queries.advance_applied_version(
        connection,
        version=max(edit.version for edit in edits),
        event_ref=cell_id.event_ref,
        cell=cell_id.cell,
    )
