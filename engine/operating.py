"""What an operator does by hand: closing and opening sales, and rebuilding one while the others sell on.

What is closed by hand is written down in Postgres, where recovery reads it: it stays closed whatever
restarts, until it is opened by hand.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

import msgspec
import redis.exceptions

from engine.cells import RECOVERY_CHANNEL
from engine.errors import StoreUnavailable
from engine.failpoints import failpoint
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.lease import REBUILD_LOCKS, RECOVERY_LOCKS, Lease, rebuild_lock
from engine.lift import Lifter, NotLiftable
from engine.rebuild import BuildVoid
from engine.redis_clients import REDIS_ERRORS, open_client
from engine.sql import load_queries
from engine.stores import POSTGRES_ERRORS, Master, Stores, connect_postgres, script_runner

queries = load_queries("operating")

POLL_S = 0.1

Say = Callable[[str], None]
"""Is told how far it is."""


class OperatorError(Exception):
    """It cannot be done, or not now; the message says why and what to do."""


class _Target(msgspec.Struct):
    """The event that the operator means."""

    title: str
    event_id: UUID
    cell_id: CellId
    is_fenced: bool
    is_everything_fenced: bool


class Rebuilt(msgspec.Struct):
    """What a rebuild did."""

    title: str
    bookings: int
    epoch: int
    seconds: float


class Operator:
    """The operator's hands."""

    def __init__(self, stores: Stores, say: Say) -> None:
        self._stores = stores
        self._say = say

    async def fence(self) -> str:
        """Close everything at once; what was done."""
        await queries.close_everything(self._stores.pool)
        failpoint("operating.after_fence_row")
        # Whoever was about to load the scripts has done so by now, and nobody begins to any more.
        try:
            await self._stores.redis.script_flush("SYNC")
            failpoint("operating.after_flush")
        except (*REDIS_ERRORS, OSError) as error:
            raise OperatorError(
                f"Redis does not answer ({error}). That everything is to stay closed is written down: "
                "recovery will keep it so when Redis is back."
            ) from None
        return "Everything is closed: each verb answers 503. `rush unfence` opens it again."

    async def unfence(self, wait_s: float) -> str:
        """Have recovery open everything, and wait for it; what was done."""
        was_closed = await queries.open_everything(self._stores.pool)
        failpoint("operating.after_unfence_row")
        if not was_closed:
            return "Nothing was closed by hand."
        await self._stores.pool.execute("SELECT pg_notify($1, '')", RECOVERY_CHANNEL)
        failpoint("operating.after_waking")
        verbs = [script.sha for script in self._stores.scripts.values()]

        async def is_lifted() -> bool:
            return all(await self._stores.redis.script_exists(*verbs))

        seconds = await self._wait(is_lifted, "for recovery to look at every sale", wait_s)
        counts = await queries.count_cells(self._stores.pool)
        closed = f"; {counts['fenced']} stay closed, one by one" if counts["fenced"] else ""
        return f"Open again after {seconds:.1f} s: {counts['open']} sales{closed}."

    async def fence_event(self, name: str) -> str:
        """Close the sale of one event at once; what was done."""
        target = await self._target(name)
        await queries.close_cell(self._stores.pool, **target.cell_id._asdict())
        failpoint("operating.after_fenced_row")
        # Whoever opens the cell holds its row's lock, so from here on nobody does.
        run = script_runner(self._stores.redis, self._stores.scripts)
        try:
            await run("fence", [CellKeys(target.cell_id).sale], secrets.token_hex(16))
            failpoint("operating.after_cell_fence")
        except redis.exceptions.NoScriptError:
            pass  # the whole node is fenced
        except (*REDIS_ERRORS, OSError) as error:
            raise OperatorError(
                f"Redis does not answer ({error}). That {target.title} is to stay closed is written down: "
                "recovery will keep it so when Redis is back."
            ) from None
        return f"{target.title} is closed: each verb answers 503. `rush unfence {name}` opens it again."

    async def unfence_event(self, name: str, wait_s: float) -> str:
        """Have recovery open one event, and wait for it; what was done."""
        target = await self._target(name)
        if not target.is_fenced:
            return f"{target.title} was not closed by hand."
        await queries.open_cell(self._stores.pool, **target.cell_id._asdict())
        failpoint("operating.after_unfenced_row")
        if target.is_everything_fenced:
            return f"{target.title} opens with everything else, which is closed: `rush unfence` opens that."
        await self._stores.pool.execute("SELECT pg_notify($1, $2)", RECOVERY_CHANNEL, tag(target.cell_id))
        failpoint("operating.after_asking")
        sale = CellKeys(target.cell_id).sale

        async def is_open() -> bool:
            return bool(await self._stores.redis.hexists(sale, "epoch"))

        seconds = await self._wait(is_open, f"for recovery to open {target.title}", wait_s)
        return f"{target.title} is open again after {seconds:.1f} s."

    async def rebuild(self, name: str) -> Rebuilt:
        """Write one event's cell anew from Postgres; the other events sell on."""
        target = await self._target(name)
        if target.is_fenced or target.is_everything_fenced:
            what = f" {name}" if target.is_fenced else ""
            raise OperatorError(f"{target.title} was closed by hand: `rush unfence{what}` first")
        began_s = time.monotonic()
        master = self._master_of(target)
        connection = await connect_postgres(self._stores.settings, "rebuild")
        client = open_client(master.address, single=True)
        try:
            async with Lease(self._stores.settings, "rebuild") as lease:
                if not await lease.take(REBUILD_LOCKS, [rebuild_lock(target.cell_id)]):
                    raise OperatorError(f"somebody is rebuilding {target.title} already")
                bookings, epoch = await self._rebuild(
                    target, Lifter(self._stores, connection, client, master.owns)
                )
        except BuildVoid:
            raise OperatorError(
                f"{target.title} was closed, or recovery began to rebuild it as well, and that one counts"
            ) from None
        except (*REDIS_ERRORS, *POSTGRES_ERRORS) as error:
            raise OperatorError(
                f"a store does not answer ({error}): recovery opens {target.title} when it does"
            ) from None
        finally:
            await client.aclose()
            connection.terminate()
        return Rebuilt(target.title, bookings, epoch, time.monotonic() - began_s)

    def _master_of(self, target: _Target) -> Master:
        try:
            return self._stores.master_of(target.cell_id)
        except StoreUnavailable:
            raise OperatorError(f"no node of Redis says that {target.title} is there") from None

    async def _rebuild(self, target: _Target, lifter: Lifter) -> tuple[int, int]:
        node = await lifter.look()
        if not node.is_master:
            raise OperatorError("the Redis that the URL names is a replica: name its master")
        if await lifter.is_fenced():
            raise OperatorError(
                "Redis is fenced: recovery is about to look at every sale, and rebuilds what needs it"
            )

        def say(bookings: int) -> None:
            self._say(f"{target.title}: {bookings:,} bookings written")

        try:
            return await lifter.rebuild_anew(target.cell_id, node, say)
        except NotLiftable as error:
            raise OperatorError(f"{target.title}: {error}") from None

    async def _target(self, name: str) -> _Target:
        """The event with that slug or id; raises OperatorError for one that has no cell in Redis."""
        try:
            event_id = UUID(name)
        except ValueError:
            event_id = None
        row = await queries.find_cell(self._stores.pool, event_id=event_id, slug=name)
        if row is None:
            raise OperatorError(f"there is no event {name!r}: name it by its slug or its id")
        if row["event_ref"] is None:
            raise OperatorError(f"{row['title']} was never published: it has no sale")
        if row["is_closed"]:
            raise OperatorError(f"the sale of {row['title']} is over and has left Redis")
        return _Target(
            title=row["title"],
            event_id=row["id"],
            cell_id=CellId(row["event_ref"], row["cell"]),
            is_fenced=row["is_fenced"],
            is_everything_fenced=row["is_everything_fenced"],
        )

    async def _wait(self, is_done: Callable[[], Awaitable[bool]], what: str, wait_s: float) -> float:
        """The seconds that it took; raises OperatorError when it is not done in time."""
        began_s = time.monotonic()
        while True:
            try:
                if await is_done():
                    return time.monotonic() - began_s
                waits_for = what
            except (*REDIS_ERRORS, OSError) as error:
                waits_for = f"for Redis, which does not answer ({error})"
            if time.monotonic() - began_s > wait_s:
                raise OperatorError(await self._why_not(waits_for))
            self._say(f"waiting {waits_for}")
            await asyncio.sleep(POLL_S)

    async def _why_not(self, waits_for: str) -> str:
        if await queries.is_recovery_working(self._stores.pool, family=RECOVERY_LOCKS):
            return f"still waiting {waits_for}: recovery is at it, its log says what keeps it"
        return f"still waiting {waits_for}: no recovery works, start one (`rush work recovery`)"


async def operate(stores: Stores, say: Say, act: Callable[[Operator], Awaitable[str]]) -> str:
    """Do one thing; raises OperatorError, also where Postgres does not answer."""
    try:
        return await act(Operator(stores, say))
    except POSTGRES_ERRORS as error:
        raise OperatorError(
            f"Postgres does not answer ({error}): nothing can be written down without it. Try again"
        ) from None
