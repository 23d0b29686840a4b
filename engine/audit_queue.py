"""The waiting room: everybody stands where Postgres says, passes and totals agree, and the bound is kept.

Part of rule 3. A sample suffices to the quick audit, which says so; totals are compared in full each time.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import redis.asyncio.client

from engine.audit_look import CellView, Entries, Finding, Progress, queries, settle
from engine.ledger import Admit, Claim, Draw, Freeze, Join, Lapse, Leave, Reserve
from engine.stores import Connection
from engine.times import to_ms

PAGE_ROWS = 1_000
SUSPECTS_MAX = 500
SAMPLE_PLACES = 200
SAMPLE_PASSES = 200
TOTALS = ("tail", "serving", "admitted", "claimed", "spent", "units", "lapsed")
SALE_FIELDS = ["queue_mode", "queue_passes_max", "queue_pass_ttl_ms", "queue_grace_ms"]


class _Rows(msgspec.Struct):
    room: asyncpg.Record | None
    places: int | None
    passes_max_changed_at: Any


class _Pass(NamedTuple):
    """What somebody has: when their pass runs out, or on what it was spent."""

    expires_at_ms: int | None = None
    booking_id: UUID | None = None


_NO_PASS = _Pass()


class QueueCheck:
    """Rule 3 for the waiting room of one open cell; does nothing where there is none."""

    def __init__(self, view: CellView) -> None:
        self._view = view
        self._places: dict[tuple[int, UUID], None] = {}
        self._passes: dict[UUID, None] = {}

    async def run(self, progress: Progress) -> None:
        """Everybody in it, as Postgres and as Redis tells."""
        view = self._view
        if not await self._check_totals(has_counts=True):
            return
        after, seen = 0, 0
        while page := await self._page(after, PAGE_ROWS):
            await self._compare_places(page)
            after, seen = page[-1]["number"], seen + len(page)
            await progress(f"{seen:,} places of the waiting room")
        user = UUID(int=0)
        while users := await self._users(user, PAGE_ROWS):
            await self._compare_passes(users)
            user = users[-1]
        for of in (
            view.stores.redis.zscan_iter(view.keys.passes),
            view.stores.redis.hscan_iter(view.keys.spent),
        ):
            users = []
            async for name, _ in of:
                users.append(UUID(name.decode()))
                if len(users) >= PAGE_ROWS:
                    await self._compare_passes(users)
                    users = []
            await self._compare_passes(users)
        await self._examine()

    async def run_quick(self) -> None:
        """The totals, and some people."""
        if not await self._check_totals(has_counts=False):
            return
        view = self._view
        tail = int(await view.stores.redis.hget(view.keys.queue, "tail") or 0)
        for after in (0, random.randrange(tail + 1)):  # noqa: S311 - no secret
            await self._compare_places(await self._page(after, SAMPLE_PLACES))
        users = await self._users(UUID(int=random.getrandbits(128)), SAMPLE_PASSES)
        if len(users) < SAMPLE_PASSES:
            users = await self._users(UUID(int=0), SAMPLE_PASSES)
        client: Any = view.stores.redis
        for command, key in (("ZRANDMEMBER", view.keys.passes), ("HRANDFIELD", view.keys.spent)):
            users += [
                UUID(name.decode()) for name in await client.execute_command(command, key, SAMPLE_PASSES)
            ]
        await self._compare_passes(users)
        await self._examine()

    async def _page(self, after: int, rows_max: int) -> list[asyncpg.Record]:
        rows = queries.places_page(
            self._view.stores.pool, after=after, rows_max=rows_max, **self._view.of_cell
        )
        return [row async for row in rows]

    async def _users(self, after: UUID, rows_max: int) -> list[UUID]:
        rows = queries.passes_page(
            self._view.stores.pool, after=after, rows_max=rows_max, **self._view.of_cell
        )
        return [row["user_id"] async for row in rows]

    # The totals.

    async def _check_totals(self, *, has_counts: bool) -> bool:
        """Whether there is a waiting room to look at further."""
        view, has_queue = self._view, True

        async def examine(_: Sequence[str]) -> list[tuple[str, Finding]]:
            nonlocal has_queue
            has_queue, findings = await self._compare_totals(has_counts=has_counts)
            return findings

        await settle(view.report, ["the waiting room"], examine)
        return has_queue

    async def _compare_totals(self, *, has_counts: bool) -> tuple[bool, list[tuple[str, Finding]]]:
        view, keys = self._view, self._view.keys

        async def read_rows(connection: Connection) -> _Rows:
            places = await queries.places_count(connection, **view.of_cell) if has_counts else None
            return _Rows(
                room=await queries.waiting_room(connection, **view.of_cell),
                places=places,
                passes_max_changed_at=await queries.passes_max_changed_at(connection, **view.of_cell),
            )

        def queue(pipeline: redis.asyncio.client.Pipeline, _: _Rows) -> None:
            pipeline.hmget(keys.sale, SALE_FIELDS)
            pipeline.hgetall(keys.queue)
            pipeline.hlen(keys.places)
            pipeline.bitcount(keys.gone)
            pipeline.time()
            pipeline.zrange(keys.passes, 0, -1, withscores=True)
            pipeline.zrange(keys.waves, 0, -1)

        look = await view.look(read_rows, queue)
        sale, fields, places, gone, time, passes, waves = look.replies
        room = look.rows.room
        if room is None and sale[0] is None:
            return False, []
        if room is None or sale[0] is None or not fields:
            detail = f"Postgres has {'none' if room is None else 'one'}, Redis has {len(fields)} fields of it"
            return False, [("the waiting room", (3, "queue_missing", detail))]
        expected = _totals(room, look.entries)
        values = {name.decode(): value.decode() for name, value in fields.items()}
        found = {name: int(values.get(name, 0)) for name in TOTALS}
        found |= {"entrants": int(values.get("entrants", -1)), "is_drawn": int("key" in values)}
        findings: list[tuple[str, Finding]] = [
            (name, (3, "queue_total_differs", f"Redis says {found[name]}, Postgres {expected[name]}"))
            for name in expected
            if found[name] != expected[name]
        ]
        if look.rows.places is not None:
            living = _living(look.rows.places, look.entries)
            if places != living:
                detail = f"{places} people in Redis, {living} in Postgres"
                findings.append(("places", (3, "queue_count_differs", detail)))
        findings += _examine_hash(values, gone)
        now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
        out = sum(score > now_ms for _, score in passes)
        out += _kept_slots(values, waves, now_ms - int(sale[3]))
        findings += self._examine_bound(look.rows, sale, out, now_ms)
        return True, findings

    def _examine_bound(
        self, rows: _Rows, sale: list[bytes], out: int, now_ms: int
    ) -> list[tuple[str, Finding]]:
        """Never more are out than may be. (What is left for them to buy moves as they buy: that part of the
        bound holds when somebody is let in, and cannot be read off a later moment.)"""
        passes_max, ttl_ms, grace_ms = (int(value) for value in sale[1:])
        if out <= passes_max:
            return []
        changed_at = rows.passes_max_changed_at
        if changed_at is not None and to_ms(changed_at) > now_ms - ttl_ms - grace_ms:
            self._view.report.note(f"{out} passes are out, from before the most was set to {passes_max}")
            return []
        return [("passes", (3, "queue_bound_broken", f"{out} are out, {passes_max} may be"))]

    # People.

    async def _compare_places(self, page: list[asyncpg.Record]) -> None:
        """A first look: who differs, for whatever reason, is suspect."""
        if not page:
            return
        view = self._view
        raws = [row["user_id"].bytes for row in page]
        numbers: list[Any] = await view.stores.redis.hmget(view.keys.places, raws)
        for row, number in zip(page, numbers, strict=True):
            stands_here = number is not None and number == str(row["number"]).encode()
            if stands_here != row["is_living"]:
                self._places[row["number"], row["user_id"]] = None
        if len(self._places) >= SUSPECTS_MAX:
            await self._examine()

    async def _compare_passes(self, users: list[UUID]) -> None:
        if not users:
            return
        view = self._view
        rows = queries.passes_of(view.stores.pool, user_ids=users, **view.of_cell)
        known = {row["user_id"]: _pass_of(row) async for row in rows}
        names = [str(user) for user in users]
        scores = await view.stores.redis.zmscore(view.keys.passes, names)
        bookings: list[Any] = await view.stores.redis.hmget(view.keys.spent, names)
        for user, score, booking in zip(users, scores, bookings, strict=True):
            if _read_pass(score, booking) != known.get(user, _NO_PASS):
                self._passes[user] = None
        if len(self._passes) >= SUSPECTS_MAX:
            await self._examine()

    async def _examine(self) -> None:
        """Look at the suspects exactly, in one moment of both stores."""
        places, self._places = list(self._places), {}
        passes, self._passes = list(self._passes), {}
        await settle(self._view.report, places, self._examine_places)
        await settle(self._view.report, passes, self._examine_passes)

    async def _examine_places(
        self, suspects: Sequence[tuple[int, UUID]]
    ) -> list[tuple[tuple[int, UUID], Finding]]:
        view = self._view
        numbers = [number for number, _ in suspects]

        async def read_rows(connection: Connection) -> set[tuple[int, UUID]]:
            rows = queries.places_by_number(connection, numbers=numbers, **view.of_cell)
            return {(row["number"], row["user_id"]) async for row in rows if row["is_living"]}

        def queue(pipeline: redis.asyncio.client.Pipeline, _: Any) -> None:
            pipeline.hmget(view.keys.places, [user.bytes for _, user in suspects])

        look = await view.look(read_rows, queue)
        living = look.rows
        for _, entry in look.entries:
            match entry:
                case Join():
                    living |= set(enumerate(entry.users, entry.first_number))
                case Leave():
                    living.discard((entry.number, entry.user_id))
                case Lapse():
                    living -= {(each.number, each.user_id) for each in entry.people}
                case _:
                    pass
        findings: list[tuple[tuple[int, UUID], Finding]] = []
        for (number, user), found in zip(suspects, look.replies[0], strict=True):
            is_living = (number, user) in living
            if (found is not None and int(found) == number) != is_living:
                stands = "nowhere" if found is None else f"at {int(found)}"
                ended = "" if is_living else ", which has ended"
                detail = f"Postgres gave {user} this number{ended}; in Redis they stand {stands}"
                findings.append(((number, user), (3, "place_differs", detail)))
        return findings

    async def _examine_passes(self, suspects: Sequence[UUID]) -> list[tuple[UUID, Finding]]:
        view = self._view
        names = [str(user) for user in suspects]

        async def read_rows(connection: Connection) -> dict[UUID, _Pass]:
            rows = queries.passes_of(connection, user_ids=list(suspects), **view.of_cell)
            return {row["user_id"]: _pass_of(row) async for row in rows}

        def queue(pipeline: redis.asyncio.client.Pipeline, _: Any) -> None:
            pipeline.zmscore(view.keys.passes, names)
            pipeline.hmget(view.keys.spent, names)

        look = await view.look(read_rows, queue)
        has = look.rows
        for _, entry in look.entries:
            match entry:
                case Claim():
                    has[entry.user_id] = _Pass(expires_at_ms=entry.expires_at_ms)
                case Leave():
                    has.pop(entry.user_id, None)
                case Lapse():
                    for each in entry.people:
                        has.pop(each.user_id, None)
                case Reserve() if entry.has_pass:
                    has[entry.user_id] = _Pass(booking_id=entry.booking_id)
                case _:
                    pass
        findings: list[tuple[UUID, Finding]] = []
        for user, score, booking in zip(suspects, *look.replies, strict=True):
            found, expected = _read_pass(score, booking), has.get(user, _NO_PASS)
            if found != expected:
                findings.append((user, (3, "pass_differs", f"Redis says {found}, Postgres {expected}")))
        return findings


def _pass_of(row: asyncpg.Record) -> _Pass:
    if row["is_ended"]:
        return _NO_PASS
    if row["booking_id"] is not None:
        return _Pass(booking_id=row["booking_id"])
    return _Pass(expires_at_ms=row["expires_at_ms"])


def _read_pass(score: float | None, booking: bytes | None) -> _Pass:
    return _Pass(None if score is None else int(score), None if booking is None else UUID(booking.decode()))


def _totals(room: asyncpg.Record, entries: Entries) -> dict[str, int]:
    """What the queue's hash must say once these entries are counted."""
    totals = {name: int(room[name]) for name in (*TOTALS, "entrants", "is_drawn")}
    for _, entry in entries:
        match entry:
            case Join():
                totals["tail"] = max(totals["tail"], entry.first_number + len(entry.users) - 1)
            case Freeze():
                totals["entrants"] = entry.entrants
            case Draw():
                totals["is_drawn"] = 1
            case Admit():
                totals["serving"] = entry.to_place
                totals["admitted"] += entry.people
            case Claim():
                totals["claimed"] += 1
            case Lapse():
                totals["lapsed"] += len(entry.people)
            case Reserve() if entry.has_pass:
                totals["spent"] += 1
                totals["units"] += sum(item.quantity for item in entry.items)
            case _:
                pass
    return totals


def _living(people: int, entries: Entries) -> int:
    """How many must stand in the queue once these entries are counted."""
    for _, entry in entries:
        match entry:
            case Join():
                people += len(entry.users)
            case Leave():
                people -= 1
            case Lapse():
                people -= len(entry.people)
            case _:
                pass
    return people


def _kept_slots(values: dict[str, str], waves: list[bytes], since_ms: int) -> int:
    """The slots of waves that are still in their grace, whether somebody has swept the others or not."""
    kept = 0
    for member in waves:
        _, to_place, _, served_at_ms = member.decode().split(":")
        if int(served_at_ms) > since_ms:
            kept += int(values.get(f"w:{to_place}", 0))
    return kept


def _examine_hash(values: dict[str, str], gone: int) -> list[tuple[str, Finding]]:
    """What the parts of the queue in Redis say of each other."""
    findings: list[tuple[str, Finding]] = []
    slots = sum(int(value) for name, value in values.items() if name.startswith("w:"))
    if slots != int(values.get("unclaimed", 0)):
        detail = f"waves keep {slots} slots, unclaimed says {values.get('unclaimed', 0)}"
        findings.append(("unclaimed", (3, "queue_slots_differ", detail)))
    if gone != int(values.get("gone", 0)):
        detail = f"{gone} bits are set, the queue says {values.get('gone', 0)}"
        findings.append(("gone", (3, "queue_gone_differs", detail)))
    if int(values.get("serving", 0)) > int(values.get("tail", 0)):
        findings.append(("serving", (3, "queue_beyond_its_tail", f"{values['serving']} of {values['tail']}")))
    return findings
