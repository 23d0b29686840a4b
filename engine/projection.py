"""The ledger's entries as rows: what the relay commits to Postgres.

`commit_batch` writes what a run of entries adds up to (engine.fold), whole tables at a time, in one
transaction together with the offset. An entry that Postgres refuses is found by bisection and put among
the dead letters.
"""

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec

from engine import ids
from engine.fold import Changes, Orphaned, Row, add_event, fold
from engine.ids import CellId
from engine.ledger import Batch, Cancel, Edit, Expire, Line, Reject, Unreadable
from engine.sql import load_queries
from engine.stores import Connection
from engine.times import from_ms

queries = load_queries("relay")

ORPHAN_SQLSTATE = "RU001"
"""Our own state for an entry whose booking, at that version, or whose zone Postgres does not have."""


class StaleOffset(Exception):
    """The cell is not where this batch begins: another one was faster, or a newer epoch has begun."""


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
            if await _undo(connection, batch, lines[0]):
                return
            await _bury(connection, batch, lines[0], sqlstate, str(error), rejected)
            return
        middle = len(lines) // 2
        await _write_or_bisect(connection, batch, lines[:middle], rejected)
        await _write_or_bisect(connection, batch, lines[middle:], rejected)


async def _undo(connection: Connection, batch: Batch, line: Line) -> bool:
    """End in Postgres what the entry says has ended; False where there is nothing of it to be ended.

    So it is after a later transition was refused: Redis gave the seats back, and the row has another
    version than the entry continues, or a time that its constraints do not take.
    """
    entry = line.entry
    if not isinstance(entry, Cancel | Expire | Reject):
        return False
    undone: int = await queries.undo_booking(
        connection,
        booking_id=entry.booking_id,
        version=entry.version,
        ended_at=from_ms(entry.at_ms),
        epoch=batch.epoch,
        seq=line.seq,
    )
    if not undone:
        return False
    changes = Changes()
    add_event(changes, "booking.cancelled", entry, entry.version)
    await _insert_events(connection, changes)
    return True


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
    return msgspec.json.encode(line.text.decode(errors="replace").replace("\0", "\ufffd")).decode()


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
        await _insert_events(connection, changes)
    if changes.edits:
        await _decide_edits(connection, batch.cell_id, changes.edits)


async def _insert_events(connection: Connection, changes: Changes) -> None:
    booking_ids, versions, kinds, payloads = zip(*changes.events, strict=True)
    await queries.insert_outbox(
        connection,
        booking_ids=booking_ids,
        versions=versions,
        event_types=kinds,
        payloads=[payload.decode() for payload in payloads],
    )


def _expect(done: str, count: int, what: str) -> None:
    if int(done.rpartition(" ")[2]) != count:
        raise Orphaned(f"{done} of {count} {what}")


async def _insert_bookings(connection: Connection, epoch: int, made: list[tuple[UUID, Row]]) -> None:
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


async def _move_bookings(connection: Connection, epoch: int, moved: list[tuple[UUID, Row]]) -> None:
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
