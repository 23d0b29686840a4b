"""The ledger: dense within each epoch, and every durable entry counted exactly once."""

from typing import Any

import asyncpg

from engine.audit_look import CellView, Entries, Progress, booking_of, queries, read_entry
from engine.audit_queue_entries import queue_entries_lost
from engine.ledger import Confirm, Edit, Open, Position, QueueEntry, Reject, Reserve, parse_position

PAGE_ENTRIES = 1_000
ROWS_SHOWN_MAX = 20


async def check_ledger(view: CellView, durable: Position, progress: Progress) -> None:
    """Rule 3 for what the ledger still holds (it is trimmed of what has been durable for a while).

    `durable` is an offset that Postgres had when this began.
    """
    await _check_rows(view)
    before: Position | None = None
    start = "-"
    while True:
        page: Any = await view.stores.redis.xrange(view.keys.ledger, min=start, count=PAGE_ENTRIES)
        if not page:
            break
        positions = [parse_position(id_) for id_, _ in page]
        for position in positions:
            check_order(view, before, position, durable)
            before = position
        entries = [(at, read_entry(fields)) for at, (_, fields) in zip(positions, page, strict=True)]
        await check_counted(view, [(at, entry) for at, entry in entries if at <= durable])
        view.report.ledger_entries += len(page)
        await progress(f"{view.report.ledger_entries:,} ledger entries")
        start = f"({before}"
    if before is None or before < durable:
        view.report.violated(3, "ledger_end_missing", before or "-", f"Postgres has entries up to {durable}")


def check_order(view: CellView, before: Position | None, position: Position, durable: Position) -> None:
    """One entry follows the one before it, or, as the first one, what is durable."""
    if before is None:
        if position > Position(durable.epoch, durable.seq + 1):
            view.report.violated(
                3, "ledger_gap", position, f"the first entry that is there, Postgres has them up to {durable}"
            )
    elif position.epoch == before.epoch:
        if position.seq != before.seq + 1:
            view.report.violated(3, "ledger_gap", position, f"follows {before}")
    elif position.seq != 0:
        view.report.violated(3, "ledger_gap", position, f"follows {before}: the epoch does not begin with 0")


async def check_counted(view: CellView, entries: Entries) -> None:
    """Each of these durable entries is in Postgres or among the dead letters, not in both."""
    booking_ids = {booking_id for _, entry in entries if (booking_id := booking_of(entry))}
    rows = queries.versions(view.stores.pool, booking_ids=list(booking_ids))
    versions = {row["id"]: row async for row in rows}
    dead = await _dead_positions(view, entries)
    edits = [entry.version for _, entry in entries if isinstance(entry, Edit)]
    outcomes: dict[int, str] = {}
    if edits:
        found = queries.edit_outcomes(view.stores.pool, versions=edits, **view.of_cell)
        outcomes = {row["version"]: row["outcome"] async for row in found}
    of_queue = [(position, entry) for position, entry in entries if isinstance(entry, QueueEntry)]
    lost = await queue_entries_lost(view, of_queue) if of_queue else set()
    for position, entry in entries:
        if entry is None:
            is_counted = False
        elif isinstance(entry, Open):
            continue
        elif isinstance(entry, QueueEntry):
            if position not in lost or position in dead:
                continue
            is_counted = False
        elif isinstance(entry, Edit):
            is_counted = outcomes.get(entry.version) == entry.outcome
        else:
            is_counted = _is_counted(view, position, entry, versions.get(entry.booking_id))
        if is_counted and position in dead and not isinstance(entry, Reject):
            view.report.violated(3, "entry_counted_twice", position, "in Postgres and among the dead letters")
        elif not is_counted and position not in dead:
            what = "what no script wrote" if entry is None else type(entry).__name__.lower()
            whose = booking_of(entry) or "no booking"
            view.report.violated(
                3, "entry_lost", position, f"{what} of {whose}: neither in Postgres nor a dead letter"
            )


def _is_counted(view: CellView, position: Position, entry: Any, row: asyncpg.Record | None) -> bool:
    version = 1 if isinstance(entry, Reserve) else entry.version
    if row is None or row["version"] < version:
        return False
    if isinstance(entry, Confirm) and row["confirmation_code"] is None:
        # It was refused, and the row has been ended from the state before.
        return False
    if row["version"] == version and Position(row["ledger_epoch"], row["ledger_seq"]) != position:
        view.report.violated(
            3,
            "entry_counted_elsewhere",
            position,
            f"version {version} of {entry.booking_id} comes from {row['ledger_epoch']}-{row['ledger_seq']}",
        )
    return True


async def _dead_positions(view: CellView, entries: Entries) -> set[Position]:
    found: set[Position] = set()
    for epoch in {position.epoch for position, _ in entries}:
        seqs = [position.seq for position, _ in entries if position.epoch == epoch]
        rows = queries.dead_letters_between(
            view.stores.pool, epoch=epoch, first_seq=min(seqs), last_seq=max(seqs), **view.of_cell
        )
        found |= {Position(epoch, row["seq"]) async for row in rows}
    return found


async def _check_rows(view: CellView) -> None:
    """What the rows say of their entries, whether the ledger still has those or not."""
    pool, report = view.stores.pool, view.report
    twice = queries.counted_twice(pool, rows_max=ROWS_SHOWN_MAX, **view.of_cell, **view.in_range)
    async for row in twice:
        report.violated(
            3, "entry_counted_twice", _at(row), f"{row['id']} comes from it, and it is a dead letter"
        )
    async for row in queries.shared_positions(pool, rows_max=ROWS_SHOWN_MAX, **view.in_range):
        report.violated(3, "entry_counted_twice", _at(row), f"{row['bookings']} bookings come from it")
    ahead = queries.ahead_of_offset(pool, rows_max=ROWS_SHOWN_MAX, **view.of_cell, **view.in_range)
    async for row in ahead:
        report.violated(
            3, "booking_ahead_of_offset", row["id"], f"comes from {_at(row)}, which is not durable"
        )


def _at(row: asyncpg.Record) -> str:
    return f"{row['ledger_epoch']}-{row['ledger_seq']}"
