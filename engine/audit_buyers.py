"""Buyers: what the limit counts is what their living bookings hold, and it is kept."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import redis.asyncio.client

from engine.audit_look import CellView, Entries, Finding, queries, settle
from engine.ledger import Cancel, Edit, Expire, Reject, Reserve
from engine.stores import Connection
from engine.times import to_ms

SCAN_COUNT = 1_000
SUSPECTS_MAX = 500
"""So many are examined in one look."""


class _Rows(msgspec.Struct):
    units: dict[UUID, int]
    newest_at: dict[UUID, datetime]
    limit_changed_at: datetime | None


class BuyerCheck:
    """Rule 2, for one open cell."""

    def __init__(self, view: CellView) -> None:
        self._view = view
        self._suspects: dict[str, None] = {}

    async def suspect(self, user: str) -> None:
        """Have one user's units examined exactly."""
        self._suspects[user] = None
        if len(self._suspects) >= SUSPECTS_MAX:
            await self.examine_suspects()

    async def run(self) -> None:
        """Go through everybody in `buyers`."""
        view = self._view
        limit = int(await view.stores.redis.hget(view.keys.sale, "max_per_user") or 0)
        seen = 0
        page: dict[str, int] = {}
        async for name, units in view.stores.redis.hscan_iter(view.keys.buyers, count=SCAN_COUNT):
            page[name.decode()] = int(units)
            seen += 1
            if len(page) >= SCAN_COUNT:
                await self._compare(page, limit)
                page = {}
        await self._compare(page, limit)
        await self.examine_suspects()
        view.report.buyers = seen

    async def _compare(self, page: dict[str, int], limit: int) -> None:
        view = self._view
        users = [UUID(name) for name in page if _is_user(name)]
        rows = queries.units(view.stores.pool, user_ids=users, **view.in_range)
        known = {str(row["user_id"]): row["units"] async for row in rows}
        for name, units in page.items():
            if known.get(name) != units or units > limit or not _is_user(name):
                await self.suspect(name)

    async def examine_suspects(self) -> None:
        """Look at the suspects exactly, in one moment of both stores."""
        suspects = list(self._suspects)
        self._suspects.clear()
        await settle(self._view.report, suspects, self._examine)

    async def _examine(self, suspects: Sequence[str]) -> list[tuple[str, Finding]]:
        view = self._view

        async def read_rows(connection: Connection) -> _Rows:
            users = [UUID(name) for name in suspects if _is_user(name)]
            rows = [row async for row in queries.units(connection, user_ids=users, **view.in_range)]
            return _Rows(
                units={row["user_id"]: row["units"] for row in rows},
                newest_at={row["user_id"]: row["newest_at"] for row in rows},
                limit_changed_at=await queries.limit_changed_at(connection, **view.of_cell),
            )

        def queue(pipeline: redis.asyncio.client.Pipeline, _: _Rows) -> None:
            pipeline.hget(view.keys.sale, "max_per_user")
            pipeline.hmget(view.keys.buyers, list(suspects))

        look = await view.look(read_rows, queue)
        limit, held = int(look.replies[0] or 0), look.replies[1]
        taken, newest_ms, limit_changed_ms = _moves(look.entries)
        if look.rows.limit_changed_at is not None:
            limit_changed_ms = max(limit_changed_ms, to_ms(look.rows.limit_changed_at))
        findings: list[tuple[str, Finding]] = []
        for user, value in zip(suspects, held, strict=True):
            if not _is_user(user):
                findings.append((user, (2, "buyer_is_no_user", f"buyers has {value!r} for it")))
                continue
            user_id = UUID(user)
            units = look.rows.units.get(user_id, 0) + taken.get(user_id, 0)
            finding = _compare_units(value, units)
            if finding is not None:
                findings.append((user, finding))
            elif units > limit:
                row_ms = to_ms(look.rows.newest_at[user_id]) if user_id in look.rows.newest_at else 0
                if max(row_ms, newest_ms.get(user_id, 0)) > limit_changed_ms:
                    findings.append((user, (2, "over_the_limit", f"holds {units}, the limit is {limit}")))
                else:
                    view.report.note(f"{user} holds {units}, from before the limit was set to {limit}")
        return findings


def _compare_units(value: bytes | None, units: int) -> Finding | None:
    if value is None:
        return (2, "units_differ", f"not in buyers, living bookings hold {units}") if units else None
    if int(value) == 0:
        return (2, "empty_buyer_left", "in buyers with 0 units")
    if int(value) != units:
        return (2, "units_differ", f"buyers says {int(value)}, living bookings hold {units}")
    return None


def _moves(entries: Entries) -> tuple[dict[UUID, int], dict[UUID, int], int]:
    """By how much entries move users' units, when they last took some, and when an edit last came."""
    taken: dict[UUID, int] = {}
    newest_ms: dict[UUID, int] = {}
    edited_ms = 0
    for _, entry in entries:
        match entry:
            case Reserve():
                taken[entry.user_id] = taken.get(entry.user_id, 0) + _units(entry)
                newest_ms[entry.user_id] = entry.at_ms
            case Cancel() | Expire() | Reject():
                taken[entry.user_id] = taken.get(entry.user_id, 0) - _units(entry)
            case Edit():
                edited_ms = entry.at_ms
            case _:
                pass
    return taken, newest_ms, edited_ms


def _units(entry: Any) -> int:
    return sum(item.quantity for item in entry.items)


def _is_user(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
