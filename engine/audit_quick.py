"""The quick audit: as much of the audit as can be done every minute, whatever the size of the cell.

Counters are compared in full, at a common position of the ledger, as the full audit does it. Bookings,
buyers, deadlines and ledger entries are sampled, others each time; a small cell fits into the sample. The
sums over all bookings are taken where they are affordable: see `run`.
"""

import random
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import asyncpg

from engine.audit_bookings import BookingCheck
from engine.audit_buyers import BuyerCheck
from engine.audit_ledger import check_counted, check_order
from engine.audit_look import CellMoved, CellView, LedgerBroken, booking_of, queries, read_entry
from engine.audit_payments import check_some_payments
from engine.audit_queue import QueueCheck
from engine.audit_sweep import check_deadlines, check_members
from engine.audit_zones import check_zones
from engine.ledger import Position, parse_position

FIRST_BOOKINGS = 100
"""A cell with fewer is looked at whole."""
WINDOWS = 12
WINDOW_BOOKINGS = 25
"""Behind so many random ids, so many bookings each. Ids are random, so each booking is as likely as any."""
BUYERS = 200
DEADLINES = 200
END_ENTRIES = 500
ENTRY_WINDOWS = 2
WINDOW_ENTRIES = 250
LAG_ENTRIES_MAX = 50_000
"""With a relay further behind than this the stores are not compared."""
SUM_BOOKINGS_MAX = 20_000
"""The sums over so many bookings are taken each time."""
ROWS_SHOWN_MAX = 20
RETURN_OVERDUE_S = 60
"""So long after Postgres refused a booking its seats may still be on their way back."""
_ID_LENGTH = 36


class TooFarBehind(Exception):
    """The relay is so far behind that the stores cannot be compared cheaply."""


async def _nobody(_: str) -> None:
    """Nobody waits for a line of progress."""


class QuickCheck:
    """The quick audit of one open cell."""

    def __init__(self, view: CellView) -> None:
        self._view = view
        self._buyers = BuyerCheck(view)
        self._bookings = BookingCheck(view, self._buyers, [], _nobody)
        self._seen: dict[UUID, asyncpg.Record] = {}

    async def run(self, *, has_sums: bool = False) -> bool:
        """Look once; whether the sums over all bookings were taken: asked for, or few enough.

        Raises CellMoved, LedgerBroken and TooFarBehind.
        """
        view = self._view
        durable = await self._check_lag()
        count = await queries.bookings_up_to(view.stores.pool, rows_max=SUM_BOOKINGS_MAX + 1, **view.in_range)
        has_sums = has_sums or count <= SUM_BOOKINGS_MAX
        await check_zones(view, has_sums=has_sums)
        if has_sums:
            await check_deadlines(view)
        await self._sample_rows()
        members = await self._sample_redis()
        await self._bookings.examine_suspects()
        await self._buyers.examine_suspects()
        if "deadline_without_hold" not in view.report.counts:
            await check_members(view, members)
        await self._check_rows()
        await self._check_ledger(durable)
        await QueueCheck(view).run_quick()
        await self._bookings.examine_suspects()
        await check_some_payments(view, list(self._seen))
        return has_sums

    async def _check_lag(self) -> Position:
        view = self._view
        durable = await view.durable()
        live = await view.live()
        if live < durable:
            view.report.violated(3, "ledger_end_missing", live, f"Postgres has entries up to {durable}")
            raise LedgerBroken(f"the ledger ends at {live}, before what is durable")
        if live.seq - durable.seq > LAG_ENTRIES_MAX:
            behind = live.seq - durable.seq
            raise TooFarBehind(f"the relay is {behind:,} entries behind: the stores are not compared")
        return durable

    async def _sample_rows(self) -> None:
        """Bookings in Postgres, against their records in Redis."""
        view, pool = self._view, self._view.stores.pool
        starts = [(UUID(int=view.first.int - 1), FIRST_BOOKINGS)]
        span = view.last.int - view.first.int
        starts += [
            (UUID(int=view.first.int + random.randrange(span)), WINDOW_BOOKINGS)  # noqa: S311 - no secret
            for _ in range(WINDOWS)
        ]
        for after, rows_max in starts:
            rows = queries.bookings_page(pool, after=after, last=view.last, rows_max=rows_max)
            page = [row async for row in rows if row["id"] not in self._seen]
            orphans = queries.items_without_booking_behind(
                pool, after=after, last=view.last, rows_max=rows_max
            )
            for orphan in {row["booking_id"] async for row in orphans}:
                view.report.violated(3, "items_without_booking", orphan, "Postgres has its items alone")
            await self._see(page)
            if rows_max == FIRST_BOOKINGS and len(page) < FIRST_BOOKINGS:
                return

    async def _see(self, rows: list[asyncpg.Record]) -> None:
        if not rows:
            return
        self._seen |= {row["id"]: row for row in rows}
        await self._bookings.compare(rows)
        counts = self._view.report.bookings
        for row in rows:
            counts[row["status"]] = counts.get(row["status"], 0) + 1

    async def _sample_redis(self) -> list[str]:
        """Buyers and holds in Redis, against Postgres; some members of the index of deadlines."""
        view = self._view
        client: Any = view.stores.redis
        limit = int(await client.hget(view.keys.sale, "max_per_user") or 0)
        found: Any = await client.execute_command("HRANDFIELD", view.keys.buyers, BUYERS, "WITHVALUES")
        page = {found[i].decode(errors="replace"): found[i + 1] for i in range(0, len(found), 2)}
        await self._buyers.compare(page, limit)
        view.report.buyers = len(page)
        drawn: Any = await client.execute_command("ZRANDMEMBER", view.keys.deadlines, DEADLINES)
        members = [member.decode(errors="replace") for member in drawn]
        holds = {UUID(member[-_ID_LENGTH:]) for member in members if _is_id(member[-_ID_LENGTH:])}
        await self._look_up(holds - self._seen.keys())
        return members

    async def _look_up(self, booking_ids: Iterable[UUID]) -> None:
        """Bookings that Redis knows of: what Postgres says of them."""
        wanted = list(booking_ids)
        rows = [row async for row in queries.bookings_by_id(self._view.stores.pool, booking_ids=wanted)]
        await self._see(rows)
        for booking_id in set(wanted) - {row["id"] for row in rows}:
            await self._bookings.suspect(booking_id)

    async def _check_rows(self) -> None:
        """What the sampled rows say of their entries."""
        view, report = self._view, self._view.report
        # Later than all rows: what they come from is durable by now.
        durable = await view.durable()
        places: dict[Position, UUID] = {}
        for booking_id, row in self._seen.items():
            position = Position(row["ledger_epoch"], row["ledger_seq"])
            if position > durable:
                report.violated(
                    3, "booking_ahead_of_offset", booking_id, f"comes from {position}, which is not durable"
                )
            if places.setdefault(position, booking_id) != booking_id:
                report.violated(3, "entry_counted_twice", position, "several bookings come from it")
        rows = queries.dead_and_counted(view.stores.pool, rows_max=ROWS_SHOWN_MAX, **view.of_cell)
        async for row in rows:
            position = Position(row["ledger_epoch"], row["ledger_seq"])
            report.violated(
                3, "entry_counted_twice", position, f"{row['id']} comes from it, and it is a dead letter"
            )

    async def _check_ledger(self, durable: Position) -> None:
        """That the ledger is dense, as far as its length tells and in some windows, and that these count."""
        view, keys = self._view, self._view.keys
        pipeline = view.stores.redis.pipeline(transaction=True)
        pipeline.hmget(keys.sale, ["epoch", "seq"])
        pipeline.xlen(keys.ledger)
        pipeline.xrange(keys.ledger, count=1)
        pipeline.xrevrange(keys.ledger, count=END_ENTRIES)
        sale, length, head, tail = await pipeline.execute()
        durable_since = await view.durable()
        if sale[0] is None or sale[1] is None or int(sale[0]) != view.epoch:
            raise CellMoved
        live = Position(int(sale[0]), int(sale[1]))
        last = parse_position(tail[0][0]) if tail else None
        if last != live:
            view.report.violated(
                3, "ledger_end_missing", live, f"the sale is there, the ledger ends at {last}"
            )
        if not head:
            return
        first = parse_position(head[0][0])
        check_order(view, None, first, durable_since)
        await self._check_window(tail[::-1], durable)
        for _ in range(ENTRY_WINDOWS if length > END_ENTRIES else 0):
            # By place in the newest epoch: older ones are what the relay has not trimmed yet.
            begin = first.seq if first.epoch == live.epoch else 0
            seq = random.randrange(begin, live.seq + 1)  # noqa: S311 - no secret
            entries: Any = await view.stores.redis.xrange(
                keys.ledger, min=f"{live.epoch}-{seq}", count=WINDOW_ENTRIES
            )
            await self._check_window(entries, durable)
        is_known = "ledger_gap" in view.report.counts
        if first.epoch == live.epoch and length != live.seq - first.seq + 1 and last == live and not is_known:
            view.report.violated(
                3,
                "ledger_gap",
                f"{first}..{live}",
                f"{length} entries where there must be one for each place",
            )

    async def _check_window(self, fields: list[Any], durable: Position) -> None:
        entries = [(parse_position(id_), read_entry(value)) for id_, value in fields]
        before = None
        for position, _ in entries:
            if before is not None:
                check_order(self._view, before, position, durable)
            before = position
        self._view.report.ledger_entries += len(entries)
        await check_counted(self._view, [(at, entry) for at, entry in entries if at <= durable])
        ids = {booking_id for at, entry in entries if at <= durable and (booking_id := booking_of(entry))}
        rows = queries.known_ids(self._view.stores.pool, booking_ids=list(ids))
        for booking_id in ids - {row["id"] async for row in rows}:
            await self._bookings.suspect(booking_id)


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


async def refused(view: CellView) -> tuple[int, int]:
    """How many entries Postgres has refused, and of how many the seats are just being given back.

    Until they are, Redis is ahead. What should have been given back long ago does not count.
    """
    counts = await queries.refused(view.stores.pool, overdue_s=RETURN_OVERDUE_S, **view.of_cell)
    return counts["letters"], counts["returning"]
