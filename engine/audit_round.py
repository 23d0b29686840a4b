"""Quick audits, of one cell after the other: `rush audit --quick`, and the auditor each minute."""

import asyncio
import time
from uuid import UUID

import asyncpg

from engine.audit_look import (
    NOT_OPEN,
    STORE_ERRORS,
    CellMoved,
    CellView,
    LedgerBroken,
    find_cells,
    queries,
)
from engine.audit_quick import QuickCheck, TooFarBehind, refused
from engine.audit_report import EventReport, Report
from engine.ids import CellId
from engine.stores import Stores

ATTEMPTS_MAX = 3
ATTEMPT_PAUSE_S = 0.5
SUM_SHARE = 0.01
"""The sums over a large cell are taken so seldom that they take this share of the time."""


class QuickAuditor:
    """Looks at cells; remembers when it may take the sums of a large one again."""

    def __init__(self, stores: Stores, *, has_large_sums: bool = False) -> None:
        self._stores = stores
        self._has_large_sums = has_large_sums
        self._sums_from_s: dict[CellId, float] = {}

    async def run(self, event_id: UUID | None = None) -> Report:
        """Look at every cell, or at those of one event. Never raises for a store that is away."""
        report = Report()
        began_s = time.monotonic()
        try:
            rows, report.problem = await find_cells(self._stores, event_id)
            for row in rows:
                report.events.append(await self.audit_cell(row))
        except STORE_ERRORS as error:
            report.problem = f"a store does not answer: {type(error).__name__}: {error}"
        report.seconds = time.monotonic() - began_s
        return report

    async def audit_cell(self, row: asyncpg.Record) -> EventReport:
        """One cell; looked at again where it was not open, or where what was seen may be passing."""
        cell_id = CellId(row["event_ref"], row["cell"])
        epoch = row["epoch"]
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                await asyncio.sleep(ATTEMPT_PAUSE_S)
                epoch = (await queries.position(self._stores.pool, **cell_id._asdict()))["epoch"]
            report = EventReport(event_id=row["event_id"], title=row["title"])
            view = CellView(self._stores, cell_id, epoch, report)
            if await self._look(view, is_closed=row["is_closed"]):
                break
        if report.state == "not open" and row["is_fenced"]:
            report.problem = None
            report.note("an operator has closed it")
        return report

    async def _look(self, view: CellView, *, is_closed: bool) -> bool:
        """One look; whether it is conclusive."""
        report = view.report
        try:
            if is_closed:
                report.state = "closed"
                if await self._stores.redis.exists(view.keys.sale):
                    report.violated(3, "closed_and_on_sale", "sale", "Redis still has the cell")
                return True
            before = await refused(view)
            await self._check(view)
            after = await refused(view)
        except CellMoved:
            report.state, report.problem = NOT_OPEN
            _forget(report)
            return False
        except TimeoutError:
            report.problem = "Postgres does not answer in time: the cell is too large, or Postgres too busy"
            _forget(report)
            return True
        except TooFarBehind as error:
            report.problem = str(error)
            return True
        except LedgerBroken as error:
            if await self._is_node_fenced():
                # As a node that has just become the master is: it may lack what Postgres has.
                report.state, report.problem = NOT_OPEN
                _forget(report)
                return False
            report.violated(3, "ledger_gap", "ledger", str(error))
            return False
        if report.counts and (before != after or after[1]):
            report.problem = "seats of bookings that Postgres refused are just being returned"
            _forget(report)
            return False
        return True

    async def _is_node_fenced(self) -> bool:
        shas = [script.sha for script in self._stores.scripts.values()]
        return not all(await self._stores.redis.script_exists(*shas))

    async def _check(self, view: CellView) -> None:
        began_s = time.monotonic()
        is_due = self._has_large_sums and began_s >= self._sums_from_s.get(view.id, 0.0)
        try:
            has_sums = await QuickCheck(view).run(has_sums=is_due)
        except TimeoutError:
            if is_due:
                self._put_sums_off(view.id, began_s)
            raise
        if has_sums and is_due:
            self._put_sums_off(view.id, began_s)

    def _put_sums_off(self, cell_id: CellId, began_s: float) -> None:
        now_s = time.monotonic()
        self._sums_from_s[cell_id] = now_s + (now_s - began_s) / SUM_SHARE


def _forget(report: EventReport) -> None:
    """What was seen of it proves nothing."""
    report.violations.clear()
    report.counts.clear()
