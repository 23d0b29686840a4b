"""Postgres was set back (a restored backup, a fail-over): writing what Redis knows of a waiting room.

Redis knows who stands where, who has a pass, and all totals; it does not know any more who has left, or when
somebody joined. Such a number is nobody's afterwards, and nobody stands there. What proves a draw is in
Postgres alone: a draw that was set back keeps its places and loses its proof.
"""

import contextlib
import logging
from typing import Any
from uuid import UUID

import asyncpg
import redis.asyncio

from engine.failpoints import failpoint
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.ledger import Position
from engine.rebuild_queue import parse_gaps
from engine.rebuild_slices import Slices
from engine.sql import load_queries
from engine.waiting.lottery import Permutation

log = logging.getLogger(__name__)
queries = load_queries("recovery")

SCAN_COUNT = 1_000
ENDED_PREFIX = b"x:"
TOTALS = ("tail", "serving", "admitted", "claimed", "spent", "units", "lapsed")
Page = dict[bytes, bytes]
Passes = dict[bytes, tuple[int | None, UUID | None]]
"""Of each user when the pass runs out, or the booking on which it was spent."""


class QueueRepair:
    """One repair of one waiting room; the cell is fenced, and all of it is in the caller's transaction."""

    def __init__(self, connection: asyncpg.Connection, client: redis.asyncio.Redis, cell_id: CellId) -> None:
        self._connection = connection
        self._client = client
        self._cell_id = cell_id
        self._cell = {"event_ref": cell_id.event_ref, "cell": cell_id.cell}
        self._keys = CellKeys(cell_id)

    async def run(self, position: Position) -> int:
        """Write all that Redis knows, as of `position`; the number of people who have a place."""
        fields: Any = await self._client.hgetall(self._keys.queue)
        row = await queries.waiting_room_to_rebuild(self._connection, **self._cell)
        if not fields or row is None:
            return 0
        key = bytes.fromhex(fields[b"key"].decode()) if b"key" in fields else None
        entrants = int(fields[b"entrants"]) if b"entrants" in fields else None
        permutation = Permutation(key, entrants) if key is not None and entrants is not None else None
        people = await self._write_living()
        await self._end_others()
        await self._end_numbers(
            [int(name[len(ENDED_PREFIX) :]) for name in fields if name.startswith(ENDED_PREFIX)]
        )
        gaps = parse_gaps(fields.get(b"gaps", b"").decode())
        await queries.repair_missing_places(
            self._connection,
            tail=int(fields[b"tail"]),
            firsts=[first for first, _ in gaps],
            lasts=[last for _, last in gaps],
            **self._cell,
        )
        failpoint("repair_queue.after_missing_places")
        await self._write_passes(permutation)
        await self._write_waves()
        if key is not None and row["key"] is None:
            log.warning(
                "the draw of %s was set back: its places stay, what proves it is lost", tag(self._cell_id)
            )
        await queries.repair_waiting_room(
            self._connection,
            **{name: int(fields.get(name.encode(), 0)) for name in TOTALS},
            gaps=fields.get(b"gaps", b"").decode(),
            entrants=entrants,
            key=key,
            epoch=position.epoch,
            seq=position.seq,
            **self._cell,
        )
        failpoint("repair_queue.after_waiting_room")
        return people

    async def _write_living(self) -> int:
        people = 0
        async for page in _pages(self._client, self._keys.places):
            await queries.repair_places(
                self._connection,
                numbers=[int(number) for number in page.values()],
                users=[UUID(bytes=raw) for raw in page],
                **self._cell,
            )
            failpoint("repair_queue.after_places")
            people += len(page)
        return people

    async def _end_others(self) -> None:
        """Whoever has a row and stands there no more in Redis."""
        ended: list[int] = []
        async with contextlib.aclosing(Slices(self._cell_id, self._connection).places()) as slices:
            async for row in slices:
                users = [row["users"][i : i + 16] for i in range(0, len(row["users"]), 16)]
                stands: list[Any] = await self._client.hmget(self._keys.places, users)
                pairs = zip(row["numbers"], stands, strict=True)
                ended += [number for number, there in pairs if there is None or int(there) != number]
        # Not in between: the connection reads the next slice meanwhile.
        if ended:
            await self._end_numbers(ended)

    async def _end_numbers(self, numbers: list[int]) -> None:
        await queries.repair_ended_places(self._connection, numbers=numbers, **self._cell)
        failpoint("repair_queue.after_ended_places")

    async def _write_passes(self, permutation: Permutation | None) -> None:
        out: Any = await self._client.zrange(self._keys.passes, 0, -1, withscores=True)
        await self._write_some({name: (int(score), None) for name, score in out}, permutation)
        known = [UUID(name.decode()) for name, _ in out]
        async for page in _pages(self._client, self._keys.spent):
            spent: Passes = {name: (None, UUID(booking.decode())) for name, booking in page.items()}
            await self._write_some(spent, permutation)
            known += [UUID(name.decode()) for name in page]
        await queries.repair_ended_passes(self._connection, known=known, **self._cell)
        failpoint("repair_queue.after_ended_passes")

    async def _write_some(self, passes: Passes, permutation: Permutation | None) -> None:
        if not passes:
            return
        users = [UUID(name.decode()) for name in passes]
        found: list[Any] = await self._client.hmget(self._keys.places, [user.bytes for user in users])
        numbers = [int(number or 0) for number in found]
        rows = [
            (user, number, _place(number, permutation), expires_at_ms, booking)
            for user, number, (expires_at_ms, booking) in zip(users, numbers, passes.values(), strict=True)
            if number
        ]
        ttl_ms = await self._client.hget(self._keys.sale, "queue_pass_ttl_ms")
        await queries.repair_passes(
            self._connection,
            users=[row[0] for row in rows],
            numbers=[row[1] for row in rows],
            places=[row[2] for row in rows],
            expires_ats_ms=[row[3] for row in rows],
            bookings=[row[4] for row in rows],
            ttl_ms=int(ttl_ms or 0),
            **self._cell,
        )
        failpoint("repair_queue.after_passes")

    async def _write_waves(self) -> None:
        members: Any = await self._client.zrange(self._keys.waves, 0, -1)
        waves = [[int(part) for part in member.split(b":")] for member in members]
        await queries.repair_waves(
            self._connection,
            from_places=[wave[0] for wave in waves],
            to_places=[wave[1] for wave in waves],
            people=[wave[2] for wave in waves],
            served_ats_ms=[wave[3] for wave in waves],
            **self._cell,
        )
        failpoint("repair_queue.after_waves")


def _place(number: int, permutation: Permutation | None) -> int:
    if permutation is not None and number <= permutation.entrants:
        return permutation.place_of(number)
    return number


async def _pages(client: redis.asyncio.Redis, key: str) -> Any:
    """A hash, page by page; a field may come twice."""
    page: Page = {}
    async for name, value in client.hscan_iter(key, count=SCAN_COUNT):
        page[name] = value
        if len(page) >= SCAN_COUNT:
            yield page
            page = {}
    if page:
        yield page
