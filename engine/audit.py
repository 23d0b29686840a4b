"""`rush audit`: checks on a live system what must never be false (DESIGN.md, section 11).

It reads Redis and Postgres itself, by plain commands and SQL, and shares no code with what it checks but
the names of keys and the form of ledger entries.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from uuid import UUID

import asyncpg

from engine.audit_bookings import BookingCheck
from engine.audit_buyers import BuyerCheck
from engine.audit_ledger import check_ledger
from engine.audit_look import NOT_OPEN, STORE_ERRORS, CellMoved, CellView, LedgerBroken, find_cells, queries
from engine.audit_payments import check_payments
from engine.audit_queue import QueueCheck
from engine.audit_report import EXIT_BLIND, EventReport, Report, ZoneState, render, to_json
from engine.audit_round import QuickAuditor
from engine.audit_sweep import check_deadlines, find_extra_bookings
from engine.audit_told import Told, ToldCheck
from engine.audit_zones import check_zones, examine_rows
from engine.ids import CellId
from engine.settings import SettingsError, load_running_settings
from engine.stores import Stores, open_stores

RELAY_WAIT_S = 30.0
RETURN_WAIT_S = 10.0
POLL_S = 0.1
CELL_ATTEMPTS_MAX = 6
CELL_ATTEMPT_PAUSE_S = 0.5
PROGRESS_INTERVAL_S = 1.0


Say = Callable[[str], None]


class _TooFarBehind(Exception):
    """The relay does not catch up, so Redis and Postgres cannot be compared to the end."""


class Auditor:
    """One audit."""

    def __init__(self, stores: Stores, told: Told | None, relay_wait_s: float, say: Say | None) -> None:
        self._stores = stores
        self._told = told
        self._relay_wait_s = relay_wait_s
        self._say = say
        self._said_at_s = time.monotonic()
        self._checks: dict[str, BookingCheck] = {}
        self._views: dict[str, CellView] = {}

    async def run(self, event_id: UUID | None) -> Report:
        """Look at every cell, or at those of one event."""
        report = Report()
        began_s = time.monotonic()
        try:
            rows, report.problem = await find_cells(self._stores, event_id)
            for row in rows:
                report.events.append(await self._audit_cell(row))
            await self._sweep(only=next(iter(self._views.values())) if event_id and self._views else None)
        except STORE_ERRORS as error:
            report.problem = f"a store does not answer: {type(error).__name__}: {error}"
        report.seconds = time.monotonic() - began_s
        return report

    async def _progress(self, text: str) -> None:
        if self._say is not None and time.monotonic() - self._said_at_s >= PROGRESS_INTERVAL_S:
            self._said_at_s = time.monotonic()
            self._say(text)

    async def _audit_cell(self, row: asyncpg.Record) -> EventReport:
        """One cell; begun again where it is reopened meanwhile."""
        cell_id = CellId(row["event_ref"], row["cell"])
        report = EventReport(event_id=row["event_id"], title=row["title"])
        for attempt in range(CELL_ATTEMPTS_MAX):
            if attempt:
                await self._progress(f"{row['title']}: waiting until it is open")
                await asyncio.sleep(CELL_ATTEMPT_PAUSE_S)
                position = await queries.position(self._stores.pool, **cell_id._asdict())
                report = EventReport(event_id=row["event_id"], title=row["title"])
            else:
                position = row
            view = CellView(self._stores, cell_id, position["epoch"], report)
            try:
                if row["is_closed"]:
                    await self._audit_closed(view)
                else:
                    await self._audit_open(view)
            except CellMoved:
                report.state, report.problem = NOT_OPEN
                continue
            except (LedgerBroken, _TooFarBehind) as error:
                report.problem = str(error)
            return report
        return report

    async def _audit_open(self, view: CellView) -> None:
        report = view.report
        await self._wait_for_relay(view)
        await self._wait_for_returns(view)
        durable = await view.durable()
        await check_zones(view)
        buyers = BuyerCheck(view)
        told = ToldCheck(view, self._told) if self._told is not None else None
        bookings = BookingCheck(view, buyers, [told] if told else [], self._progress)
        await bookings.run()
        await buyers.run()
        await check_deadlines(view)
        await check_ledger(view, durable, self._progress)
        await QueueCheck(view).run(self._progress)
        await check_payments(view)
        if told is not None:
            await told.run()
        counts = await queries.dead_letter_counts(self._stores.pool, **view.of_cell)
        report.dead_letters = counts["letters"]
        self._checks[view.keys.prefix] = bookings
        self._views[view.keys.prefix] = view

    async def _wait_for_relay(self, view: CellView) -> None:
        """Until all that Redis has now is in Postgres: what is written later is accounted for."""
        target = await view.live()
        deadline_s = time.monotonic() + self._relay_wait_s
        while (durable := await view.durable()) < target:
            if time.monotonic() > deadline_s:
                behind = target.seq - durable.seq
                raise _TooFarBehind(f"the relay does not catch up: {behind:,} entries are not in Postgres")
            await self._progress(f"{view.report.title}: {target.seq - durable.seq:,} entries to be relayed")
            await asyncio.sleep(POLL_S)

    async def _wait_for_returns(self, view: CellView) -> None:
        """Until the seats of refused bookings are given back: the relay does so every few seconds."""
        deadline_s = time.monotonic() + RETURN_WAIT_S
        while time.monotonic() < deadline_s:
            counts = await queries.dead_letter_counts(self._stores.pool, **view.of_cell)
            if not counts["unreturned"]:
                return
            await self._progress(f"{view.report.title}: seats of refused bookings are being returned")
            await asyncio.sleep(POLL_S)
        view.report.note("seats of bookings that Postgres refused are not returned yet")

    async def _audit_closed(self, view: CellView) -> None:
        """A cell that has left Redis: Postgres alone."""
        report, pool = view.report, self._stores.pool
        report.state = "closed"
        if await self._stores.redis.exists(view.keys.sale, view.keys.queue, view.keys.places):
            report.violated(3, "closed_and_on_sale", "sale", "Redis still has the cell")
        zones = [row async for row in queries.zones(pool, event_id=view.event_id)]
        sums = {row["zone_id"]: row async for row in queries.zone_sums(pool, **view.in_range)}
        for subject, (rule, what, detail) in examine_rows(zones, sums):
            report.violated(rule, what, subject, detail)
        report.zones = [
            ZoneState(
                zone["id"],
                zone["name"],
                zone["capacity"],
                zone["available_seats"],
                zone["reserved"],
                zone["confirmed"],
                zone["blocked"],
            )
            for zone in zones
        ]
        await check_payments(view)

    async def _sweep(self, only: CellView | None) -> None:
        """Once through Redis for all cells together: a SCAN walks the whole keyspace in any case."""
        if not self._checks:
            return
        await self._progress("looking for bookings that only Redis has")
        await find_extra_bookings(self._stores, self._checks, only.keys if only else None)
        for prefix, check in self._checks.items():
            try:
                await check.examine_suspects()
            except (CellMoved, LedgerBroken):
                self._views[prefix].report.problem = "it was reopened while it was being looked at"


async def audit(
    stores: Stores,
    *,
    event_id: UUID | None = None,
    told: Told | None = None,
    relay_wait_s: float = RELAY_WAIT_S,
    say: Say | None = None,
) -> Report:
    """Check the five invariants of every event, or of one.

    With `told`, what the buyers of that one event were told is checked as well; it must tell of all of
    them. `say` gets a line of progress once a second. Never raises for a store that is away: the report
    says so.
    """
    if told is not None and event_id is None:
        raise ValueError("what buyers were told belongs to one event: name it")
    return await Auditor(stores, told, relay_wait_s, say).run(event_id)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rush audit",
        description="Check a running system: is anything oversold, lost or counted twice? "
        "Exit status 0: clean; 1: violations; 2: could not look.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="counters in full, bookings, buyers and entries by sample: cheap enough for every minute",
    )
    parser.add_argument("--event", type=UUID, metavar="ID", help="only this event")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument(
        "--relay-wait-s",
        type=float,
        default=RELAY_WAIT_S,
        metavar="SECONDS",
        help=f"how long the relay may take to catch up ({RELAY_WAIT_S:.0f})",
    )
    return parser


async def _run(arguments: argparse.Namespace) -> Report:
    stores = await open_stores(load_running_settings(), "audit")
    try:
        if arguments.quick:
            return await QuickAuditor(stores).run(arguments.event)
        say = None if arguments.quiet else _say
        return await audit(stores, event_id=arguments.event, relay_wait_s=arguments.relay_wait_s, say=say)
    finally:
        await stores.close()


def _say(text: str) -> None:
    sys.stderr.write(f"… {text}\n")


def main(argv: list[str]) -> int:
    """The command; its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        report = asyncio.run(_run(arguments))
    except (SettingsError, *STORE_ERRORS) as error:
        sys.stderr.write(f"rush audit: could not look: {error}\n")
        return EXIT_BLIND
    sys.stdout.write((to_json(report) if arguments.json else render(report)) + "\n")
    return report.exit_status
