"""Postgres as the checker reads it: the tables of migrations/schema.sql, with no help from the engine.

The one thing that a drill adds is a note of every step that a cell's offset makes, written by a trigger in
the transaction that makes it. It tells, whatever died, up to where each epoch was committed.
"""

from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec

from tests.drills.checker_evidence import (
    SEQ_BITS,
    Booking,
    Counters,
    DeadLetter,
    Edit,
    Offset,
    Postgres,
    tag_of,
)

_WATCH = """
CREATE TABLE IF NOT EXISTS drill_offsets (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id uuid NOT NULL,
    cell integer NOT NULL,
    epoch_before bigint NOT NULL,
    seq_before bigint NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL
);
CREATE OR REPLACE FUNCTION drill_note_offset() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO drill_offsets (event_id, cell, epoch_before, seq_before, epoch, seq)
    VALUES (NEW.event_id, NEW.cell, OLD.epoch, OLD.seq, NEW.epoch, NEW.seq);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER drill_note_offset AFTER UPDATE ON cells FOR EACH ROW
WHEN (OLD.epoch <> NEW.epoch OR OLD.seq <> NEW.seq) EXECUTE FUNCTION drill_note_offset();
"""

_BOOKINGS = """
SELECT b.id::text, b.user_id::text, b.status, b.version, b.fingerprint, b.quantity, b.total_minor, b.currency,
    (extract(epoch FROM b.created_at) * 1000)::bigint, (extract(epoch FROM b.expires_at) * 1000)::bigint,
    (extract(epoch FROM b.confirmed_at) * 1000)::bigint, (extract(epoch FROM b.ended_at) * 1000)::bigint,
    b.confirmation_code, b.ledger_epoch, b.ledger_seq,
    coalesce(array_agg(i.zone_id::text || ' ' || i.quantity ORDER BY i.zone_id)
        FILTER (WHERE i.zone_id IS NOT NULL), '{}')
FROM bookings b LEFT JOIN booking_items i ON i.booking_id = b.id
WHERE b.event_id = ANY($1::uuid[]) GROUP BY b.id
"""
_ZONES = """
SELECT id::text, capacity, available_seats, reserved, confirmed, blocked FROM seat_zones
WHERE event_id = ANY($1::uuid[])
"""
_CELLS = "SELECT event_id::text, cell, epoch, seq FROM cells WHERE event_id = ANY($1::uuid[])"
_STEPS = """
SELECT event_id::text, cell, epoch_before, seq_before, epoch, seq FROM drill_offsets
WHERE event_id = ANY($1::uuid[]) ORDER BY number
"""
_DEAD_LETTERS = """
SELECT c.event_id::text, d.cell, d.epoch, d.seq, d.booking_id::text, d.sqlstate || ' ' || d.reason,
    d.returned_at IS NOT NULL
FROM dead_letters d JOIN cells c USING (event_ref, cell) WHERE c.event_id = ANY($1::uuid[])
"""
_EDITS = """
SELECT c.event_id::text, e.cell, e.version, e.intent::text, e.outcome
FROM edits e JOIN cells c USING (event_ref, cell) WHERE c.event_id = ANY($1::uuid[]) ORDER BY e.version
"""


async def watch_offsets(connection: asyncpg.Connection) -> None:
    """Have every step of every cell's offset noted: before the drill's first event is published."""
    await connection.execute(_WATCH)


async def read_postgres(connection: asyncpg.Connection, events: Sequence[str]) -> Postgres:
    """All that the checker asks Postgres about these events, of one moment."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        found = Postgres(
            bookings={row[0]: _booking(row) for row in await connection.fetch(_BOOKINGS, events)},
            zones={row[0]: Counters(*row[1:]) for row in await connection.fetch(_ZONES, events)},
            offsets={
                _tag(event, cell): epoch << SEQ_BITS | seq
                for event, cell, epoch, seq in await connection.fetch(_CELLS, events)
            },
        )
        for event, cell, *step in await connection.fetch(_STEPS, events):
            before, after = (epoch << SEQ_BITS | seq for epoch, seq in (step[:2], step[2:]))
            found.steps.setdefault(_tag(event, cell), []).append(Offset(before, after))
        for event, cell, epoch, seq, *rest in await connection.fetch(_DEAD_LETTERS, events):
            found.dead_letters.append(DeadLetter(_tag(event, cell), epoch << SEQ_BITS | seq, *rest))
        for event, cell, version, intent, outcome in await connection.fetch(_EDITS, events):
            edit = Edit(version, msgspec.json.decode(intent), outcome)
            found.edits.setdefault(_tag(event, cell), []).append(edit)
    return found


def _tag(event: str, cell: int) -> str:
    return f"{tag_of(event).partition('.')[0]}.{cell}"


def _booking(row: Any) -> Booking:
    *fields, epoch, seq, items = row
    parted = (item.partition(" ") for item in items)
    items = tuple((zone, int(quantity)) for zone, _, quantity in parted)
    return Booking(*fields, epoch << SEQ_BITS | seq, items)
