"""The ledger's entries as rows: what the relay commits to Postgres.

`commit_batch` writes what a run of entries adds up to (engine.fold), whole tables at a time, in one
transaction together with the offset. An entry that Postgres refuses is found by bisection and put among
the dead letters.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from engine.failpoints import failpoint
from engine.fold import Changes, Event, Row, event_of, fold
from engine.fold_queue import Orphaned, QueueChanges
from engine.ids import CellId
from engine.ledger import Edit
from engine.lines import Batch, Cancel, Expire, Line, Reject, Unreadable
from engine.rows import (
    BOOKINGS,
    ITEMS,
    OUTBOX,
    PLACES,
    NotARow,
    Table,
    event_rows,
    place_rows,
    reserved_rows,
)
from engine.sql import load_queries
from engine.stores import Connection
from engine.times import from_ms

queries = load_queries("relay")

ORPHAN_SQLSTATE = "RU001"
"""Our own state for an entry whose booking, at that version, or whose zone Postgres does not have."""
DATA_SQLSTATE = "22000"
"""What does not even fit into a row (data exception)."""

_Refusal = Orphaned | NotARow | asyncpg.PostgresError
_REFUSALS = (Orphaned, NotARow, asyncpg.PostgresError)


class StaleOffset(Exception):
    """The cell is not where this batch begins: another one was faster, or a newer epoch has begun."""


async def commit_batch(connection: Connection, batch: Batch) -> list[UUID]:
    """Write a batch and move the offset, in one transaction.

    Returns the bookings that Postgres refused. Raises StaleOffset when the offset is not where the
    batch begins; then nothing was written.
    """
    try:
        async with connection.transaction():
            await _advance(connection, batch)
            await _write(connection, batch, fold(batch.lines))
        failpoint("projection.after_commit")
    except _REFUSALS as error:
        if not _is_bisected(error):
            raise
    else:
        return []
    # Something in it is refused, which is rare: once more, with savepoints to find it.
    rejected: dict[UUID, None] = {}
    async with connection.transaction():
        await _advance(connection, batch)
        await _write_or_bisect(connection, batch, batch.lines, rejected)
    failpoint("projection.after_bisected_commit")
    return list(rejected)


async def _advance(connection: Connection, batch: Batch) -> None:
    moved = await queries.advance_offset(
        connection,
        to_seq=batch.after.seq,
        event_ref=batch.cell_id.event_ref,
        cell=batch.cell_id.cell,
        epoch=batch.epoch,
        from_seq=batch.from_seq,
    )
    failpoint("projection.after_offset")
    if moved != "UPDATE 1":
        raise StaleOffset(f"{batch.cell_id} is not at {batch.before}")


def _sqlstate_of(error: _Refusal) -> str:
    match error:
        case Orphaned():
            return ORPHAN_SQLSTATE
        case NotARow():
            return DATA_SQLSTATE
        case _:
            return error.sqlstate or ""


def _is_bisected(error: _Refusal) -> bool:
    """Whether it is the fault of an entry, which can never be right."""
    return isinstance(error, Orphaned | NotARow) or _sqlstate_of(error)[:2] in ("22", "23")


async def _write_or_bisect(
    connection: Connection, batch: Batch, lines: Sequence[Line], rejected: dict[UUID, None]
) -> None:
    try:
        async with connection.transaction():
            await _write(connection, batch, fold(lines))
        failpoint("projection.after_savepoint")
    except _REFUSALS as error:
        if not _is_bisected(error):
            raise
        if len(lines) == 1:
            if await _undo(connection, batch, lines[0]):
                return
            await _bury(connection, batch, lines[0], _sqlstate_of(error), str(error), rejected)
            return
        middle = len(lines) // 2
        await _write_or_bisect(connection, batch, lines[:middle], rejected)
        await _write_or_bisect(connection, batch, lines[middle:], rejected)


async def _undo(connection: Connection, batch: Batch, line: Line) -> bool:
    """End in Postgres what the entry says has ended; False where there is nothing of it to be ended.

    So it is after a later transition was refused: Redis gave the seats back, and the row has another
    version than the entry continues, or a time that its constraints do not take.
    """
    entry, booking_id = line.entry, line.booking_id
    if not isinstance(entry, Cancel | Expire | Reject) or booking_id is None:
        return False
    try:
        ended_at = from_ms(entry.at_ms)
    except OverflowError:
        return False
    try:
        # It may be refused as well: that must not keep what comes behind it from Postgres.
        async with connection.transaction():
            undone: int = await queries.undo_booking(
                connection,
                booking_id=booking_id,
                version=entry.version,
                ended_at=ended_at,
                epoch=batch.epoch,
                seq=line.seq,
            )
            failpoint("projection.after_undo")
            if undone:
                await _copy_events(connection, [event_of("booking.cancelled", entry, entry.version)])
        failpoint("projection.after_undo_kept")
    except _REFUSALS as error:
        if not _is_bisected(error):
            raise
        return False
    return bool(undone)


async def _bury(
    connection: Connection, batch: Batch, line: Line, sqlstate: str, reason: str, rejected: dict[UUID, None]
) -> None:
    booking_id = line.booking_id
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
    failpoint("projection.after_dead_letter")
    if booking_id is not None:
        rejected[booking_id] = None


def _as_json(line: Line) -> str:
    """The entry as it was; what is not JSON, or not to Postgres, becomes a JSON string without NULs."""
    if not isinstance(line.entry, Unreadable) and b"\\u0000" not in line.text:
        return line.text.decode()
    return msgspec.json.encode(line.text.decode(errors="replace").replace("\0", "\ufffd")).decode()


async def _write(connection: Connection, batch: Batch, changes: Changes) -> None:
    made = [row for row in changes.bookings.values() if row.reserve is not None]
    if made:
        bookings, items = reserved_rows(batch.cell_id, batch.epoch, made)
        await _copy(connection, BOOKINGS, bookings)
        failpoint("projection.after_bookings")
        await _copy(connection, ITEMS, items)
        failpoint("projection.after_items")
    if len(made) < len(changes.bookings):
        await _move_bookings(connection, batch.epoch, changes.bookings)
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
        failpoint("projection.after_counters")
        _expect(done, len(zones), "zones")
    if changes.events:
        await _copy_events(connection, changes.events)
    if changes.edits:
        await _decide_edits(connection, batch.cell_id, changes.edits)
    if not changes.queue.is_empty:
        await _move_queue(connection, batch, changes.queue)


async def _copy(connection: Connection, table: Table, rows: bytes) -> None:
    # A view: asyncpg takes bytes for the name of a file, and reads a file in a thread.
    source: Any = memoryview(rows)
    await connection.copy_to_table(table.name, source=source, columns=table.columns, format="binary")


async def _copy_events(connection: Connection, events: list[Event]) -> None:
    await _copy(connection, OUTBOX, event_rows(events))
    failpoint("projection.after_events")


def _expect(done: str, count: int, what: str) -> None:
    if int(done.rpartition(" ")[2]) != count:
        raise Orphaned(f"{done} of {count} {what}")


async def _move_bookings(connection: Connection, epoch: int, bookings: dict[str, Row]) -> None:
    moved = [(booking_id, row) for booking_id, row in bookings.items() if row.reserve is None]
    done = await queries.move_bookings(
        connection,
        ids=[booking_id for booking_id, _ in moved],
        versions_before=[row.version_before for _, row in moved],
        statuses=[row.status for _, row in moved],
        versions=[row.version for _, row in moved],
        confirmed_ats_ms=[row.confirmed_at_ms for _, row in moved],
        ended_ats_ms=[row.ended_at_ms for _, row in moved],
        codes=[row.code for _, row in moved],
        seqs=[row.seq for _, row in moved],
        epoch=epoch,
    )
    failpoint("projection.after_moves")
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
    failpoint("projection.after_edits")
    await queries.advance_applied_version(
        connection,
        version=max(edit.version for edit in edits),
        event_ref=cell_id.event_ref,
        cell=cell_id.cell,
    )
    failpoint("projection.after_applied_version")


async def _move_queue(connection: Connection, batch: Batch, changes: QueueChanges) -> None:
    cell = {"event_ref": batch.cell_id.event_ref, "cell": batch.cell_id.cell}
    if changes.joins:
        await _copy(connection, PLACES, place_rows(batch.cell_id, changes))
        failpoint("projection.after_places")
    if changes.ended:
        await _end_places(connection, cell, changes)
    if changes.passes:
        await _move_passes(connection, cell, changes)
    if changes.waves:
        await queries.insert_waves(
            connection,
            to_places=[wave.to_place for wave in changes.waves],
            from_places=[wave.from_place for wave in changes.waves],
            people=[wave.people for wave in changes.waves],
            served_ats_ms=[wave.at_ms for wave in changes.waves],
            **cell,
        )
        failpoint("projection.after_waves")
    frozen = changes.frozen
    done = await queries.move_waiting_room(
        connection,
        tail=changes.tail,
        serving=changes.serving,
        admitted=changes.admitted,
        claimed=changes.claimed,
        spent=changes.spent,
        units=changes.units,
        lapsed=changes.lapsed,
        entrants=frozen and frozen.entrants,
        frozen_at_ms=frozen and frozen.at_ms,
        frozen_seq=frozen and frozen.seq,
        epoch=batch.epoch,
        drawn_at_ms=changes.drawn_at_ms,
        **cell,
    )
    failpoint("projection.after_waiting_room")
    _expect(done, 1, "waiting rooms")


async def _end_places(connection: Connection, cell: dict[str, int], changes: QueueChanges) -> None:
    made = {
        number: user_id
        for join in changes.joins
        for number, user_id in enumerate(join.users, join.first_number)
    }
    ended = [(number, *by) for number, by in changes.ended.items() if made.get(number) != by[0]]
    if not ended:
        return
    done = await queries.end_places(
        connection,
        numbers=[number for number, _, _ in ended],
        users=[user_id for _, user_id, _ in ended],
        ended_ats_ms=[at_ms for _, _, at_ms in ended],
        **cell,
    )
    failpoint("projection.after_ended_places")
    _expect(done, len(ended), "places")


async def _move_passes(connection: Connection, cell: dict[str, int], changes: QueueChanges) -> None:
    claimed = [(each.claim, each) for each in changes.passes.values() if each.claim is not None]
    if claimed:
        await queries.claim_passes(
            connection,
            users=[claim.user_id for claim, _ in claimed],
            numbers=[claim.number for claim, _ in claimed],
            places=[claim.place for claim, _ in claimed],
            claimed_ats_ms=[claim.at_ms for claim, _ in claimed],
            expires_ats_ms=[claim.expires_at_ms for claim, _ in claimed],
            bookings=[each.booking_id for _, each in claimed],
            ended_ats_ms=[each.ended_at_ms for _, each in claimed],
            **cell,
        )
        failpoint("projection.after_claims")
    moved = [(user_id, each) for user_id, each in changes.passes.items() if each.claim is None]
    if moved:
        # Not counted: who leaves need not have had a pass, and a booking is not refused for want of one.
        await queries.move_passes(
            connection,
            users=[user_id for user_id, _ in moved],
            bookings=[each.booking_id for _, each in moved],
            ended_ats_ms=[each.ended_at_ms for _, each in moved],
            **cell,
        )
        failpoint("projection.after_passes")
