"""What the lanes of a fail-point run have in their hands."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import UUID

import asyncpg
import msgspec
import redis.asyncio

from engine import ids
from engine.ids import CellId
from engine.keys import CellKeys
from engine.operating import Operator, operate
from engine.scripts import Scripts
from engine.settings import project_root
from engine.stores import open_stores
from rush.store import free_port
from tests.drills.failpoint_plan import Job
from tests.drills.members import Member
from tests.drills.run import Scene

POLL_S = 0.03
REACHED_MAX_S = 60.0
"""A point that was not reached by then is one that nothing leads to."""
OPEN_MAX_S = 30.0
FROZEN_S = 6.5
"""Longer than a lease lasts that nobody renews: somebody else has taken over when the frozen one wakes."""
AWAKE_S = 1.0
"""So long it goes on with what it had in its hands; then its place is somebody else's."""
CLIENTS_WAIT_S = 4.0
"""Longer than a client waits for an answer."""
STOP_SHARE = {"gateway": 0.15, "relay": 0.1, "sweeping": 0.3, "recovery": 0.04}
"""How often of so many the process is frozen and woken later instead of being killed, by lane."""


class Struck(msgspec.Struct):
    """What became of one job."""

    point: str
    seed: int
    action: str
    number: int
    seconds: float = 0.0
    problem: str = ""
    """Why it counts as not struck; empty where it struck."""


class Stage:
    """One run: its processes, its stores, and who struck."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene = scene
        self.stack = scene.stack
        self.folder = folder
        self.struck: list[Struck] = []
        self.relays_rest = asyncio.Lock()
        """Held by who needs a time in which no relay works."""
        self.lifts_rest = asyncio.Lock()
        """Held by who needs a time in which no epoch begins."""
        self.cell = ids.cell_of(UUID(scene.event.id))
        self.keys = CellKeys(self.cell)
        self.queue_cell = ids.cell_of(UUID(scene.queue_event))
        self.queue_keys = CellKeys(self.queue_cell)
        self.redis = redis.asyncio.Redis.from_url(self.stack.redis.url)
        self._shas = [script.sha for script in Scripts().values()]
        self._members: list[Member] = []
        self._waking: list[asyncio.Task[None]] = []
        folder.mkdir(parents=True, exist_ok=True)

    async def sql(self, text: str, *arguments: object) -> list[asyncpg.Record]:
        """Do or ask something in Postgres behind everybody's back."""
        connection = await asyncpg.connect(self.stack.postgres.url)
        try:
            return list(await connection.fetch(text, *arguments))
        finally:
            await connection.close()

    async def operator(self, act: Callable[[Operator], Awaitable[str]]) -> None:
        """What an operator does, undisturbed."""
        stores = await open_stores(self.stack.settings, "drill")
        try:
            await operate(stores, lambda text: None, act)
        finally:
            await stores.close()

    # Processes.

    def member(self, *arguments: str, port: int = 0) -> Member:
        """A process of this run's own, not started yet."""
        name = f"{arguments[0]}-{len(self._members)}"
        settings = msgspec.structs.replace(self.stack.settings, port=port or free_port())
        member = Member(
            name,
            list(arguments),
            settings,
            self.folder,
            source=project_root(),
            metrics=self.stack.metrics,
            placed=self.stack.placed,
        )
        self._members.append(member)
        return member

    def start(self, job: Job, member: Member) -> Struck:
        """Start a process that is to strike there."""
        choice = self.scene.random
        action = "stop" if choice.random() < STOP_SHARE.get(job.lane, 0.0) else "kill"
        struck = Struck(job.point, self.scene.run.seed, action, choice.randint(1, job.number_max))
        member.extra = {
            "RUSH_FAILPOINT": f"{job.point}:{struck.number}:{action}:{self.file_of(job)}",
        }
        member.start()
        self.struck.append(struck)
        return struck

    async def attempt(self, job: Job, attempt: Awaitable[None]) -> None:
        """Try to strike there; what goes wrong is no reason not to try the next one."""
        try:
            await attempt
        except Exception as error:
            problem = f"could not be led to: {error!r}"
            mine = [each for each in self.struck if each.point == job.point]
            if mine:
                mine[-1].problem = mine[-1].problem or problem
            else:
                self.struck.append(Struck(job.point, self.scene.run.seed, "", 0, problem=problem))

    def file_of(self, job: Job) -> Path:
        """Is there once it struck."""
        return self.folder / f"struck-{job.point}"

    async def until_struck(
        self,
        job: Job,
        member: Member,
        struck: Struck,
        again: Callable[[], Awaitable[None]] | None = None,
        every_s: float = 4.0,
    ) -> None:
        """Wait for it, and write down if it does not come; `again` is what leads to it, now and then."""
        began_s = again_s = time.monotonic()
        with self.scene.fault("failpoint", f"{job.point} {struck.action}"):
            while not self.file_of(job).exists():
                await asyncio.sleep(POLL_S)
                now_s = time.monotonic()
                if now_s - began_s > REACHED_MAX_S:
                    struck.problem = "was never reached"
                    break
                if not member.is_running and not self.file_of(job).exists():
                    struck.problem = f"its process ended by itself ({member.code}): {member.log[-1500:]}"
                    break
                if again is not None and now_s - again_s > every_s:
                    again_s = now_s
                    await again()
        struck.seconds = time.monotonic() - began_s
        if struck.problem:
            member.kill()
        elif struck.action == "stop" and member in self._members:
            self._waking.append(asyncio.create_task(self._wake_later(member)))
        elif struck.action == "stop":
            await asyncio.sleep(CLIENTS_WAIT_S)
            member.resume()
            await asyncio.sleep(AWAKE_S)
        else:
            await asyncio.to_thread(member.wait_killed)

    async def _wake_later(self, member: Member) -> None:
        await asyncio.sleep(FROZEN_S)
        member.resume()
        await asyncio.sleep(AWAKE_S)
        member.kill()

    @contextlib.asynccontextmanager
    async def no_relay(self) -> AsyncIterator[None]:
        """A time in which no relay works, those of the stack included: they are there where no lane strikes
        relays, or none does any more."""
        async with self.relays_rest:
            working = [member for member in self.stack.of_kind("relay") if member.is_wanted]
            for member in working:
                member.kill()
            try:
                yield
            finally:
                for member in working:
                    member.start()

    # The cell.

    async def is_open(self) -> bool:
        """Whether the events sell."""
        with contextlib.suppress(redis.RedisError, OSError, asyncpg.PostgresError):
            is_open = [await self.redis.hexists(keys.sale, "epoch") for keys in (self.keys, self.queue_keys)]
            if all(is_open):
                return all(await self.redis.script_exists(*self._shas))
        return False

    async def until_open(self, unless: Callable[[], bool] = lambda: False) -> None:
        """Wait until it does; raises AssertionError when it takes too long."""
        deadline_s = time.monotonic() + OPEN_MAX_S
        while not unless() and not await self.is_open():
            assert time.monotonic() < deadline_s, "the event does not come back on sale"
            await asyncio.sleep(POLL_S)

    async def lag(self, cell_id: CellId) -> int:
        """Entries of a cell that Postgres does not have."""
        seq = await self.redis.hget(CellKeys(cell_id).sale, "seq")
        [row] = await self.sql("SELECT seq FROM cells WHERE event_ref = $1 AND cell = $2", *cell_id)
        return int(seq) - int(row["seq"]) if seq is not None else 0

    async def close(self) -> None:
        """Wake who is frozen, and end all processes of this run."""
        await asyncio.gather(*self._waking)
        for member in self._members:
            member.kill()
        await self.redis.aclose()


@contextlib.asynccontextmanager
async def open_stage(scene: Scene, folder: Path) -> AsyncIterator[Stage]:
    """`async with open_stage(scene, folder) as stage`."""
    stage = Stage(scene, folder)
    try:
        yield stage
    finally:
        await stage.close()
