"""Lets people in: moves `serving` on, four times a second, in every open cell that has a queue.

How many may enter, the script decides: by rate, by passes out, by what is left. Any number of workers may
run: two let in no more than one, and neither needs to know of the other. One that dies leaves nothing behind.
"""

import asyncio
import contextlib
import heapq
import logging
import time

from engine.errors import RushError
from engine.failpoints import failpoint
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.redis_clients import REDIS_ERRORS
from engine.scripts import ScriptFailed
from engine.sql import load_queries
from engine.status import Status
from engine.stores import POSTGRES_ERRORS, Stores
from engine.waiting.admission import Counters, usage
from observability.metrics import counter, gauge
from workers.backoff import Backoff, sleep_unless

log = logging.getLogger(__name__)
queries = load_queries("admission")
_people_admitted = counter("queue_admitted_total")
_waiting = gauge("queue_waiting_people")
_out = gauge("queue_passes_out")
_last_success = gauge("admission_last_success_timestamp_seconds")

ADMIT_INTERVAL_S = 0.25
CALLS_PER_SECOND_MAX = 1_000
"""With many queues, each is moved less often than that."""
USAGE_INTERVAL_S = 1.0
USAGE_TIMEOUT_S = 1.0
CELLS_INTERVAL_S = 1.0
REFUSED_PAUSE_S = 0.5
"""Before a cell is asked again that is not open, or does not answer."""
FAILED_PAUSE_S = 5.0
IDLE_S = 0.05
CALLS_MAX = 50
"""Cells asked in one tick."""
LAPSE_MAX = 1_000
"""Passes that one call takes back at most."""
PEOPLE_MAX = 5_000
"""People that one call lets in at most: while a script runs, Redis serves nobody else."""


class Room:
    """What this worker knows of one queue."""

    def __init__(self, cell_id: CellId) -> None:
        self.cell_id = cell_id
        self.keys = CellKeys(cell_id)
        self.zone_keys: list[str] = []
        self.usage = usage(Counters(0, 0, 0, 0))
        self.usage_due_s = 0.0
        self.is_known = False
        """Whether `usage` is what people do, and not what is presumed of them."""
        self.serving = 0
        self.gone_behind = 0
        """Places behind `serving` in which nobody stands any more."""
        self.waiting = 0
        self.out = 0


class Admission:
    """The rounds of one worker."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._due: list[tuple[float, CellId]] = []
        self._rooms: dict[CellId, Room] = {}

    async def refresh_cells(self) -> None:
        """Learn of new queues and forget closed ones; while Postgres is away the old list serves."""
        cells = {
            CellId(row["event_ref"], row["cell"]) async for row in queries.queue_cells(self._stores.pool)
        }
        for cell_id in cells - self._rooms.keys():
            self._rooms[cell_id] = Room(cell_id)
            heapq.heappush(self._due, (0.0, cell_id))
        for cell_id in self._rooms.keys() - cells:
            del self._rooms[cell_id]

    async def step(self) -> int:
        """Move the queues whose time has come; the number of people let in."""
        asked: list[Room] = []
        while self._due and self._due[0][0] <= time.monotonic() and len(asked) < CALLS_MAX:
            room = self._rooms.get(heapq.heappop(self._due)[1])
            if room is not None:
                asked.append(room)
        results = await asyncio.gather(*[self._move(room) for room in asked])
        for room, (_, pause_s) in zip(asked, results, strict=True):
            heapq.heappush(self._due, (time.monotonic() + pause_s, room.cell_id))
        if asked:
            _waiting.set(sum(room.waiting for room in self._rooms.values()))
            _out.set(sum(room.out for room in self._rooms.values()))
        return sum(people for people, _ in results)

    async def _move(self, room: Room) -> tuple[int, float]:
        """Let in whoever may enter now: how many, and the seconds until the cell is asked again."""
        try:
            if room.usage_due_s <= time.monotonic():
                await self._learn_usage(room)
            if not room.is_known:
                # Zones that were not asked for yet: who lets people in knows what they take.
                await self._learn_usage(room)
            reply = await self._stores.run(
                "admit",
                room.keys.waiting_room,
                *room.usage,
                LAPSE_MAX,
                PEOPLE_MAX,
            )
            failpoint("admission.after_admit")
        except (RushError, *REDIS_ERRORS, OSError, TimeoutError):
            return 0, REFUSED_PAUSE_S
        except ScriptFailed:
            log.exception("nobody can be let in to %s", tag(room.cell_id))
            return 0, FAILED_PAUSE_S
        if reply[0] != Status.OK:
            return 0, REFUSED_PAUSE_S
        _, _, room.serving, people, room.out, tail = reply
        room.waiting = max(tail - room.serving - room.gone_behind, 0)
        _last_success.set(time.time())
        if people:
            _people_admitted.inc(people)
        return people, max(ADMIT_INTERVAL_S, len(self._rooms) / CALLS_PER_SECOND_MAX)

    async def _learn_usage(self, room: Room) -> None:
        """Ask what people with passes buy, and how much of it comes back. What is asked of new zones is known
        a round later."""
        async with (
            asyncio.timeout(USAGE_TIMEOUT_S),
            self._stores.redis.pipeline(transaction=False) as pipeline,
        ):
            pipeline.hget(room.keys.sale, "zones")
            pipeline.hmget(room.keys.queue, ["spent", "units"])
            pipeline.bitcount(room.keys.gone, room.serving // 8 + 1, -1)
            for key in room.zone_keys:
                pipeline.hmget(key, ["reserved", "confirmed"])
            zones, totals, room.gone_behind, *counters = await pipeline.execute()
        room.zone_keys = [room.keys.zone_prefix + zone.decode() for zone in (zones or b"").split()]
        if not counters:
            return
        room.is_known = True
        reserved, confirmed = (
            sum(int(count or 0) for count in counts) for counts in zip(*counters, strict=True)
        )
        spent, units = (int(total or 0) for total in totals)
        room.usage = usage(Counters(spent, units, reserved, confirmed))
        room.usage_due_s = time.monotonic() + USAGE_INTERVAL_S


async def run(stores: Stores, stop: asyncio.Event) -> None:
    """Let people in until `stop`, through outages of either store."""
    admission = Admission(stores)
    # Beside the admitting, not in front of it: a Postgres that hangs must not keep people waiting.
    learning = asyncio.create_task(_learn_cells(admission, stop))
    while not stop.is_set() and not learning.done():
        if not await admission.step():
            await sleep_unless(stop, IDLE_S)
    learning.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await learning


async def _learn_cells(admission: Admission, stop: asyncio.Event) -> None:
    backoff = Backoff("admission")
    while not stop.is_set():
        try:
            await admission.refresh_cells()
            backoff.succeeded()
            pause_s = CELLS_INTERVAL_S
        except POSTGRES_ERRORS as error:
            pause_s = backoff.failed(error)
        await sleep_unless(stop, pause_s)
