"""Recovery: looking at what a Redis node remembers, and opening its cells again.

A node that restarted, or was promoted, has no scripts: every verb gets NOSCRIPT. That is the fence. To
lift it is to look at each cell, begin a new epoch in it, and then load the scripts. Nobody else loads
them.
"""

import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from enum import Enum, auto

import asyncpg
import msgspec
import redis.asyncio
import redis.exceptions

from engine import ids
from engine.cells import OPENED_CHANNEL
from engine.draining import Drain, Drained
from engine.durability import announce
from engine.edits import Edits
from engine.edits import queries as edits_queries
from engine.errors import RushError
from engine.failpoints import failpoint
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.lease import REBUILD_LOCKS, rebuild_lock
from engine.ledger import Position
from engine.rebuild import CellBuilder
from engine.redis_clients import LEAVES_THE_NODE
from engine.redis_link import TORN_CELL
from engine.sql import load_queries
from engine.status import Status
from engine.stores import Stores, script_runner

log = logging.getLogger(__name__)
queries = load_queries("recovery")

CLOCK_DIFFERENCE_MAX_MS = 2_000


class NotLiftable(Exception):
    """The node cannot be lifted now; the message says why. Tried again later."""


class Node(msgspec.Struct, frozen=True):
    """What a Redis node says of itself."""

    replid: str
    is_master: bool
    replicas: list[tuple[str, int]]


@contextlib.contextmanager
def leaving(cell_id: CellId) -> Iterator[None]:
    """A cell that is just being moved to another node waits, and no other waits for it."""
    try:
        yield
    except redis.exceptions.ResponseError as error:
        if not isinstance(error, LEAVES_THE_NODE) and TORN_CELL not in str(error):
            raise
        log.info("%s is on its way to another node: %s", tag(cell_id), error)


class Recovered(Enum):
    """What became of a cell."""

    AS_IT_WAS = auto()
    OPENED = auto()
    TO_BUILD = auto()
    """It must be rebuilt, and is so large that this had better be done beside other work."""


class Lifter:
    """Recovery's hands: one connection to Postgres and one to the node, neither ever replaced.

    `owns` says which cells live on the node: with a single one, all.
    """

    def __init__(
        self,
        stores: Stores,
        connection: asyncpg.Connection,
        client: redis.asyncio.Redis,
        owns: Callable[[CellId], bool],
    ) -> None:
        self._stores = stores
        self._owns = owns
        self._scripts = stores.scripts
        self._connection = connection
        self._client = client
        self._run = script_runner(client, stores.scripts)
        self._drain = Drain(connection, client, stores.settings)

    async def look(self) -> Node:
        """Ask the node who it is."""
        info = await self._client.info("replication")
        replicas = [
            value for name, value in info.items() if name.startswith("slave") and isinstance(value, dict)
        ]
        return Node(
            replid=info["master_replid"],
            is_master=info["role"] == "master",
            replicas=[(replica["ip"], int(replica["port"])) for replica in replicas],
        )

    async def is_fenced(self) -> bool:
        """Whether a script is missing on the node."""
        return not all(await self._client.script_exists(*[script.sha for script in self._scripts.values()]))

    async def fence(self) -> None:
        """Make the node refuse every verb."""
        await self._client.script_flush("SYNC")
        failpoint("lift.after_node_fence")

    async def has_scripts(self) -> bool:
        """Whether any of our scripts is on the node."""
        return any(await self._client.script_exists(*[script.sha for script in self._scripts.values()]))

    async def lift(self, node: Node) -> list[CellId]:
        """Look at every cell, open the sound ones, load the scripts, rebuild the others.

        The cells that are so large that the caller had better have them rebuilt beside its other work are
        left to it. Raises NotLiftable while the clocks differ too much, or when somebody else got in between.
        """
        await self._check_clocks()
        await self._load("recovery")
        to_rebuild = []
        rows = queries.cells_to_recover(self._connection)
        for cell_id in await self._owned(rows):
            with leaving(cell_id):
                if not await self._open_if_sound(cell_id, node):
                    to_rebuild.append(cell_id)
        await self._client.script_load(self._scripts["edit"].source)
        failpoint("lift.after_edit_script")
        await self.apply_outstanding_edits(older_than_s=0)
        if (now := await self.look()).replid != node.replid or not now.is_master:
            raise NotLiftable("the node changed its role while it was being lifted")
        async with self._connection.transaction():
            await queries.hold_fence(self._connection)
            if await queries.is_everything_fenced(self._connection):
                raise NotLiftable("an operator has closed everything (`rush unfence` opens it again)")
            await self._load("verb")
        failpoint("lift.after_fence_released")
        log.info("lifted the node %s, %d cells to rebuild", node.replid[:8], len(to_rebuild))
        large = []
        for cell_id in to_rebuild:
            with leaving(cell_id):
                if await self._builder(cell_id).is_large():
                    large.append(cell_id)
                    continue
                await self.rebuild(cell_id, node)
        if to_rebuild:
            await self.apply_outstanding_edits(older_than_s=0)
        return large

    async def recover_cell(self, cell_id: CellId, node: Node) -> Recovered:
        """Bring one cell of a lifted node back if it is not open."""
        row = await self._cell(cell_id, lock=False)
        if row is None:
            return Recovered.AS_IT_WAS
        if row["fenced_at"] is not None:
            await self._fence_cell(cell_id)
            return Recovered.AS_IT_WAS
        found = await self._drain.find(cell_id)
        in_place = found.position is not None and found.position.epoch == row["epoch"] and not found.is_fenced
        if in_place and row["replid"] == node.replid:
            return Recovered.AS_IT_WAS
        if await self.is_in_other_hands(cell_id):
            return Recovered.AS_IT_WAS
        if not await self._open_if_sound(cell_id, node):
            if await self._builder(cell_id).is_large():
                return Recovered.TO_BUILD
            await self.rebuild(cell_id, node)
        return Recovered.OPENED

    async def build(self, cell_id: CellId) -> None:
        """Rebuild a large cell, or go on loading one that sells already; takes as long as it takes."""
        epoch, loaded = await self._client.hmget(CellKeys(cell_id).sale, ["epoch", "loaded"])
        row = await self._cell(cell_id, lock=False)
        if row is None:
            return
        if loaded is not None and epoch is not None and int(epoch) == row["epoch"]:
            count = await self._builder(cell_id).resume(row["epoch"])
            log.info("loaded the last %d bookings of %s", count, tag(cell_id))
        else:
            await self.rebuild(cell_id, await self.look())

    async def rebuild(self, cell_id: CellId, node: Node) -> None:
        """Begin a new epoch in Postgres, then write the cell from there.

        Raises BuildVoid when somebody else has opened the cell, or begun to rebuild it, in the meantime.
        """
        builder = self._builder(cell_id)
        async with self._connection.transaction():
            row = await self._cell(cell_id, lock=True)
            if row is None or row["fenced_at"] is not None:
                return
            epoch = row["epoch"] + 1
            # Before the commit: from the moment that Postgres knows the new epoch nobody can open the cell
            # in an older one any more.
            await builder.begin(epoch)
            if row["epoch"] > 0:
                await builder.leave_gap()
            await self._begin_epoch(cell_id, epoch, node)
        failpoint("lift.after_lost_epoch")
        count = await builder.rebuild(row["event_id"], epoch)
        log.info("rebuilt %s from Postgres: %d bookings, epoch %d", tag(cell_id), count, epoch)

    async def rebuild_anew(self, cell_id: CellId, node: Node, say: Callable[[int], None]) -> tuple[int, int]:
        """Close one cell, drain it, write it anew from Postgres and open it; bookings and the new epoch.

        `say` is told now and then how many bookings are written. Raises NotLiftable for a cell that is not
        to be opened, and BuildVoid when somebody else rebuilds or closes it in the meantime.
        """
        builder = self._builder(cell_id)
        async with self._connection.transaction():
            row = await self._cell(cell_id, lock=True)
            if row is None or row["fenced_at"] is not None:
                raise NotLiftable("it has been closed in the meantime")
            await self._fence_cell(cell_id)
            drained = await self._drain.run(cell_id, row)
            epoch = drained.offset.epoch + 1
            await builder.begin(epoch)
            if not drained.is_sound:
                # In a sound cell of a lifted node nothing was lost since the lift.
                await builder.leave_gap()
            await self._begin_epoch(cell_id, epoch, node)
        failpoint("lift.after_new_epoch")
        await self._announce(cell_id, drained)
        return await builder.rebuild(row["event_id"], epoch, say), epoch

    async def apply_outstanding_edits(self, *, older_than_s: float) -> None:
        """Apply the intents that their requests did not get to apply."""
        edits = Edits(self._stores, self._run)
        rows = edits_queries.cells_with_undecided_edits(self._connection, older_than_s=older_than_s)
        for cell_id in await self._owned(rows):
            try:
                with leaving(cell_id):
                    await edits.apply_outstanding(cell_id)
            except RushError as error:
                # Of a cell that is not open yet, for instance. It must not keep the others from being lifted.
                log.info("the edits of %s wait: %r", tag(cell_id), error)

    async def close_finished(self, retention_s: int) -> None:
        """Take cells out of Redis whose sale has been over for long."""
        rows = queries.finished_cells(self._connection, retention_s=retention_s)
        for cell_id in await self._owned(rows):
            with leaving(cell_id):
                await self._close(cell_id)

    async def _owned(self, rows: AsyncIterator[asyncpg.Record]) -> list[CellId]:
        """Those cells of these rows that live on the node."""
        cell_ids = [CellId(row["event_ref"], row["cell"]) async for row in rows]
        return [cell_id for cell_id in cell_ids if self._owns(cell_id)]

    async def _close(self, cell_id: CellId) -> None:
        event_id = ids.make_id(cell_id.event_ref, 0, 0)
        if await queries.has_holds(self._connection, event_id=event_id):
            return
        builder = self._builder(cell_id)
        async with self._connection.transaction():
            row = await self._cell(cell_id, lock=True)
            if row is None:
                return
            await self._fence_cell(cell_id)
            found = await self._drain.find(cell_id)
            position = Position(row["epoch"], row["seq"])
            is_drained = found.position == found.end == position
            if is_drained:
                await builder.begin(row["epoch"] + 1)
        failpoint("lift.after_last_look")
        if not is_drained:
            return
        # All of it is in Postgres. Who dies in the middle of this leaves a cell that is not open, which the
        # next recovery brings back, to close it once more: nothing stays behind.
        await builder.wipe()
        await builder.forget()
        await queries.close_cell(
            self._connection,
            event_ref=cell_id.event_ref,
            cell=cell_id.cell,
            epoch=row["epoch"],
            seq=row["seq"],
        )
        failpoint("lift.after_closing")
        log.info("closed %s: its sale is over", tag(cell_id))

    async def _open_if_sound(self, cell_id: CellId, node: Node) -> bool:
        """Drain the cell and open it in a new epoch; False for one that must be rebuilt, left fenced.

        One that an operator has closed is drained and stays closed.
        """
        keys = CellKeys(cell_id)
        async with self._connection.transaction():
            row = await self._cell(cell_id, lock=True)
            if row is None:
                return True
            # From here on nothing moves in the cell, and no other recovery that still believes to be the
            # one (it was stopped, and woke up again) can open it.
            token = await self._fence_cell(cell_id)
            drained = await self._drain.run(cell_id, row)
            offset, stays_closed = drained.offset, row["fenced_at"] is not None
            gap = (0, "")
            if stays_closed and drained.is_sound:
                # It is this node's from now on: nobody takes it for a sign that the node was replaced.
                await queries.move_to_node(
                    self._connection, replid=node.replid, event_ref=cell_id.event_ref, cell=cell_id.cell
                )
                failpoint("lift.after_move")
            elif stays_closed or drained.is_sound:
                if not stays_closed:
                    gap = await self._builder(cell_id).leave_gap()
                await self._begin_epoch(cell_id, offset.epoch + 1, node)
        failpoint("lift.after_drain")
        await self._announce(cell_id, drained)
        if stays_closed or not drained.is_sound:
            return stays_closed
        arguments = (offset.epoch, offset.seq, offset.epoch + 1, token, *gap)
        reply = await self._run("open", [keys.sale, keys.ledger, keys.queue, keys.gone], *arguments)
        failpoint("lift.after_open")
        if reply[0] != Status.OK:
            raise NotLiftable(f"somebody else is recovering {tag(cell_id)}")
        return True

    async def _announce(self, cell_id: CellId, drained: Drained) -> None:
        if drained.is_sound or drained.offset > drained.before:
            await announce(self._client, cell_id, drained.before, drained.offset, drained.rejected)
            failpoint("lift.after_announcement")

    async def is_in_other_hands(self, cell_id: CellId) -> bool:
        """Whether an operator is just rebuilding the cell."""
        return bool(
            await queries.is_being_rebuilt(
                self._connection, family=REBUILD_LOCKS, number=rebuild_lock(cell_id)
            )
        )

    async def _fence_cell(self, cell_id: CellId) -> str:
        """Close the cell; the token that opens it again."""
        token = secrets.token_hex(16)
        await self._run("fence", [CellKeys(cell_id).sale], token)
        failpoint("lift.after_cell_fence")
        return token

    async def _begin_epoch(self, cell_id: CellId, epoch: int, node: Node) -> None:
        await queries.begin_epoch(
            self._connection, epoch=epoch, replid=node.replid, event_ref=cell_id.event_ref, cell=cell_id.cell
        )
        failpoint("lift.after_epoch")
        await self._connection.execute("SELECT pg_notify($1, $2)", OPENED_CHANNEL, tag(cell_id))
        failpoint("lift.after_notice")

    def _builder(self, cell_id: CellId) -> CellBuilder:
        return CellBuilder(cell_id, self._connection, self._client, self._run, self._stores.settings)

    async def _cell(self, cell_id: CellId, *, lock: bool) -> asyncpg.Record | None:
        find = queries.lock_cell if lock else queries.find_cell
        row: asyncpg.Record | None = await find(
            self._connection, event_ref=cell_id.event_ref, cell=cell_id.cell
        )
        return row

    async def _load(self, group: str) -> None:
        for script in self._scripts.group(group):
            await self._client.script_load(script.source)
            failpoint("lift.after_script")

    async def _check_clocks(self) -> None:
        seconds, microseconds = await self._client.time()
        difference_ms = abs(seconds * 1000 + microseconds // 1000 - await queries.clock_ms(self._connection))
        if difference_ms > CLOCK_DIFFERENCE_MAX_MS:
            raise NotLiftable(
                f"the clocks of Redis and Postgres differ by {difference_ms} ms: set them right"
            )
