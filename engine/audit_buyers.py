"""Buyers: what the limit counts is what their living bookings hold, and it is kept. Their holds are known."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import redis.asyncio.client

from engine.audit_look import CellView, Entries, Finding, queries, settle
from engine.buyer import parse_buyer
from engine.ledger import Cancel, Confirm, Edit, Expire, Reject, Reserve
from engine.stores import Connection
from engine.times import to_ms

SCAN_COUNT = 1_000
SUSPECTS_MAX = 500
"""So many are examined in one look."""


class _Has(NamedTuple):
    """What a buyer has: so many units, in bookings of which so many are holds."""

    units: int
    holds: int


_NOTHING = _Has(0, 0)


class _Rows(msgspec.Struct):
    has: dict[UUID, _Has]
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
        page: dict[str, bytes] = {}
        async for name, value in view.stores.redis.hscan_iter(view.keys.buyers, count=SCAN_COUNT):
            page[name.decode()] = value
            seen += 1
            if len(page) >= SCAN_COUNT:
                await self.compare(page, limit)
                page = {}
        await self.compare(page, limit)
        await self.examine_suspects()
        view.report.buyers = seen

    async def compare(self, page: dict[str, bytes], limit: int) -> None:
        """A first look at some values of `buyers`: what differs, for whatever reason, is suspect."""
        view = self._view
        users = [UUID(name) for name in page if _is_user(name)]
        rows = queries.units(view.stores.pool, user_ids=users, **view.in_range)
        known = {str(row["user_id"]): _Has(row["units"], row["holds"]) async for row in rows}
        for name, value in page.items():
            has = _read(value)
            if has is None or known.get(name) != has or has.units > limit or not _is_user(name):
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
                has={row["user_id"]: _Has(row["units"], row["holds"]) for row in rows},
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
            before, since = look.rows.has.get(user_id, _NOTHING), taken.get(user_id, _NOTHING)
            units = before.units + since.units
            finding = _differs(value, _Has(units, before.holds + since.holds))
            if finding is not None:
                findings.append((user, finding))
            elif units > limit:
                row_ms = to_ms(look.rows.newest_at[user_id]) if user_id in look.rows.newest_at else 0
                if max(row_ms, newest_ms.get(user_id, 0)) > limit_changed_ms:
                    findings.append((user, (2, "over_the_limit", f"holds {units}, the limit is {limit}")))
                else:
                    view.report.note(f"{user} holds {units}, from before the limit was set to {limit}")
        return findings


def _read(value: bytes) -> _Has | None:
    try:
        buyer = parse_buyer(value)
    except ValueError:
        return None
    return _Has(buyer.units, len(buyer.holds))


def _differs(value: bytes | None, expected: _Has) -> Finding | None:
    if value is None:
        is_missing = expected != _NOTHING
        return (
            (2, "units_differ", f"not in buyers, living bookings hold {expected.units}")
            if is_missing
            else None
        )
    has = _read(value)
    if has is None:
        return (2, "units_differ", f"buyers has {value!r}, living bookings hold {expected.units}")
    if has.units == 0:
        return (2, "empty_buyer_left", "in buyers with 0 units")
    if has.units != expected.units:
        return (2, "units_differ", f"buyers says {has.units}, living bookings hold {expected.units}")
    if has.holds != expected.holds:
        return (2, "holds_differ", f"buyers has {has.holds} holds, there are {expected.holds}")
    return None


def _moves(entries: Entries) -> tuple[dict[UUID, _Has], dict[UUID, int], int]:
    """By how much entries move what users have, when they last took some, and when an edit last came."""
    taken: dict[UUID, _Has] = {}
    newest_ms: dict[UUID, int] = {}
    edited_ms = 0

    def move(entry: Any, units: int, holds: int) -> None:
        before = taken.get(entry.user_id, _NOTHING)
        taken[entry.user_id] = _Has(before.units + units, before.holds + holds)

    for _, entry in entries:
        match entry:
            case Reserve():
                move(entry, _units(entry), 1)
                newest_ms[entry.user_id] = entry.at_ms
            case Confirm():
                move(entry, 0, -1)
            case Cancel() | Expire() | Reject():
                move(entry, -_units(entry), -1 if entry.was == "reserved" else 0)
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
