"""The auditor: looks every minute whether anything is false that must never be, and says so in the metrics.

One works at a time, under a lease in Postgres. It reads, and changes nothing.
"""

import asyncio
import logging
import time
from collections import Counter

import asyncpg

from engine.audit_look import STORE_ERRORS, find_cells
from engine.audit_report import RULES, EventReport
from engine.audit_round import QuickAuditor
from engine.ids import CellId
from engine.lease import AUDIT_LOCKS, Lease
from engine.stores import Stores
from observability.metrics import gauge
from workers.backoff import Backoff, sleep_unless

log = logging.getLogger(__name__)
_violations = {rule: gauge("audit_violations", rule=str(rule)) for rule in RULES}
_cells = {outcome: gauge("audit_cells", outcome=outcome) for outcome in ("clean", "violated", "blind")}
_seconds = gauge("audit_seconds")
_succeeded = gauge("audit_last_success_timestamp_seconds")

CELLS_PER_ROUND_MAX = 200
"""Of more cells each round looks at the next ones."""
LEASE_INTERVAL_S = 0.5
VIOLATIONS_SHOWN_MAX = 5


class Auditor:
    """What one auditor knows of each cell."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._quick = QuickAuditor(stores, has_large_sums=True)
        self._after = CellId(-1, 0)
        self._found: dict[CellId, EventReport] = {}
        """The last look at each cell."""

    async def round(self) -> None:
        """Look at the next cells, and show what is known of all."""
        began_s = time.monotonic()
        rows, _ = await find_cells(self._stores, None)
        by_id = {CellId(row["event_ref"], row["cell"]): row for row in rows}
        for cell_id in self._next(by_id):
            await self._look(cell_id, by_id[cell_id])
        self._found = {cell_id: report for cell_id, report in self._found.items() if cell_id in by_id}
        self._show(time.monotonic() - began_s)

    def _next(self, by_id: dict[CellId, asyncpg.Record]) -> list[CellId]:
        """The cells of this round: those behind the last one, and then again from the first."""
        behind = [cell_id for cell_id in by_id if cell_id > self._after]
        before = [cell_id for cell_id in by_id if cell_id <= self._after]
        chosen = (behind + before)[:CELLS_PER_ROUND_MAX]
        if chosen:
            self._after = chosen[-1]
        return chosen

    async def _look(self, cell_id: CellId, row: asyncpg.Record) -> None:
        report = await self._quick.audit_cell(row)
        self._found[cell_id] = report
        for violation in report.violations[:VIOLATIONS_SHOWN_MAX]:
            log.error(
                "%s (%s): rule %d, %s: %s: %s",
                report.title,
                report.event_id,
                violation.rule,
                violation.what,
                violation.subject,
                violation.detail,
            )

    def _show(self, seconds: float) -> None:
        rules: Counter[int] = Counter()
        outcomes: Counter[str] = Counter()
        for report in self._found.values():
            rules.update(violation.rule for violation in report.violations)
            outcomes["violated" if report.counts else "blind" if report.problem else "clean"] += 1
        for rule, shown in _violations.items():
            shown.set(rules[rule])
        for outcome, shown in _cells.items():
            shown.set(outcomes[outcome])
        _seconds.set(seconds)
        if not outcomes["blind"]:
            _succeeded.set(time.time())


async def run(stores: Stores, stop: asyncio.Event) -> None:
    """Audit until `stop`, through outages of either store."""
    backoff = Backoff("the auditor")
    while not stop.is_set():
        try:
            async with Lease(stores.settings, "auditor") as lease:
                while not stop.is_set() and not lease.is_lost:
                    if await lease.take(AUDIT_LOCKS, [0]):
                        await _work(stores, lease, stop, backoff)
                    await sleep_unless(stop, LEASE_INTERVAL_S)
        except STORE_ERRORS as error:
            await sleep_unless(stop, backoff.failed(error))


async def _work(stores: Stores, lease: Lease, stop: asyncio.Event, backoff: Backoff) -> None:
    auditor = Auditor(stores)
    next_s = 0.0
    while not stop.is_set() and not lease.is_lost:
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + stores.settings.audit_interval_s
            await auditor.round()
            backoff.succeeded()
        await sleep_unless(stop, LEASE_INTERVAL_S)
