"""What buyers were told, against what Postgres says: nobody was told what is not so."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec

from engine.audit_look import CellView, Finding, queries, settle

PAGE = 1_000


class ToldBooking(msgspec.Struct):
    """What one buyer was told of one booking."""

    user_id: UUID
    quantity: int
    epoch: int
    """Of the ledger, when the 201 was given."""
    is_confirm_asked: bool = False
    """A confirm was sent, whatever the answer."""
    is_confirmed: bool = False
    """A confirm was answered 200."""
    is_cancelled: bool = False
    """A cancel was answered 200."""


class Told(msgspec.Struct):
    """What all buyers of an event were told."""

    bookings: dict[UUID, ToldBooking] = {}
    """By the id in the 201."""
    users_in_doubt: set[UUID] = set()
    """Who had a reserve whose answer never came: there may be a booking that they do not know of."""
    is_complete: bool = True
    """Nothing that was told or asked is missing here. Otherwise nothing follows from silence."""


class ToldCheck:
    """Rule 4, for one cell."""

    def __init__(self, view: CellView, told: Told) -> None:
        self._view = view
        self._told = told

    def see(self, row: asyncpg.Record) -> None:
        """A booking in Postgres: somebody asked for it, and for its confirmation."""
        if not self._told.is_complete:
            return
        told = self._told.bookings.get(row["id"])
        report = self._view.report
        if told is None:
            if row["user_id"] not in self._told.users_in_doubt:
                report.violated(4, "nobody_was_told", row["id"], f"{row['status']}, of {row['user_id']}")
        elif row["status"] == "confirmed" and not told.is_confirm_asked:
            report.violated(4, "confirmed_unasked", row["id"], f"{row['user_id']} never sent a confirm")

    async def run(self) -> None:
        """Go through everything that was told."""
        booking_ids = list(self._told.bookings)
        for first in range(0, len(booking_ids), PAGE):
            page = booking_ids[first : first + PAGE]
            suspects = [booking_id for booking_id, _ in await self._examine(page)]
            await settle(self._view.report, list(dict.fromkeys(suspects)), self._examine)

    async def _examine(self, booking_ids: Sequence[UUID]) -> list[tuple[UUID, Finding]]:
        rows = queries.statuses(self._view.stores.pool, booking_ids=list(booking_ids))
        by_id = {row["id"]: row async for row in rows}
        findings = []
        for booking_id in booking_ids:
            finding = self._compare(booking_id, self._told.bookings[booking_id], by_id.get(booking_id))
            if finding is not None:
                findings.append((booking_id, finding))
        return findings

    def _compare(self, booking_id: UUID, told: ToldBooking, row: asyncpg.Record | None) -> Finding | None:
        status = row["status"] if row is not None else "not there"
        if told.is_confirmed and status != "confirmed":
            return 4, "confirmed_and_lost", f"confirm was answered 200, in Postgres it is {status}"
        if row is None:
            if told.epoch < self._view.epoch:
                self._view.report.note(f"the hold {booking_id} was lost with Redis before it was durable")
                return None
            return 4, "reserved_and_lost", "reserve was answered 201, Postgres does not have it"
        if told.is_cancelled and status != "cancelled":
            return 4, "cancelled_and_not", f"cancel was answered 200, in Postgres it is {status}"
        if row["user_id"] != told.user_id or row["quantity"] != told.quantity:
            return (
                4,
                "told_otherwise",
                f"{told.user_id} was told {told.quantity} seats, "
                f"in Postgres it is {row['quantity']} of {row['user_id']}",
            )
        return None
