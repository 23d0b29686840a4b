"""Payments: each ends in a confirmed booking or a refund, as far as rows can tell."""

from collections.abc import AsyncIterable, Sequence
from uuid import UUID

import asyncpg

from engine.audit_look import CellView, queries

UNFINISHED_S = 15 * 60
ROWS_SHOWN_MAX = 20


async def check_payments(view: CellView) -> None:
    """Rule 5, for all payments of a cell."""
    pool, report = view.stores.pool, view.report
    doubtful = queries.payments_in_doubt(
        pool, unfinished_s=UNFINISHED_S, rows_max=ROWS_SHOWN_MAX, **view.in_range
    )
    await _take_down(view, doubtful)
    counts = await queries.payment_counts(pool, **view.in_range)
    if counts["unfinished"]:
        report.note(f"{counts['unfinished']} of {counts['payments']} payments are under way")


async def check_some_payments(view: CellView, booking_ids: Sequence[UUID]) -> None:
    """Rule 5, for the payments of some bookings, and for those that nobody has touched for long."""
    pool = view.stores.pool
    rows = queries.payments_of(pool, booking_ids=list(booking_ids), unfinished_s=UNFINISHED_S)
    known = await _take_down(view, rows)
    overdue = queries.payments_overdue(
        pool, unfinished_s=UNFINISHED_S, rows_max=ROWS_SHOWN_MAX, **view.in_range
    )
    await _take_down(view, overdue, but=known)


async def _take_down(
    view: CellView, rows: AsyncIterable[asyncpg.Record], but: frozenset[UUID] = frozenset()
) -> frozenset[UUID]:
    """Violations for all of these payments but some; their ids."""
    found = set()
    async for row in rows:
        found.add(row["id"])
        if row["id"] in but:
            continue
        if row["is_paid_for_nothing"]:
            what = "paid_for_nothing"
            detail = f"succeeded, its booking {row['booking_id']} is {row['booking_status']}"
        else:
            what = "payment_unfinished"
            detail = f"{row['status']} for more than {UNFINISHED_S // 60} minutes"
        view.report.violated(5, what, row["id"], detail)
    return frozenset(found)
