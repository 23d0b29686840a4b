"""Waiting until a transition is durable: committed in Postgres, at its epoch and seq.

The relay announces how far it is, and one announcement settles every waiter up to there. What an
announcement cannot settle (another epoch, a gap in what this process has heard, an entry that was
durable before the wait began, silence) is asked of Postgres, all such waiters in one query.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any
from uuid import UUID

import msgspec
import redis

from engine import keys
from engine.errors import StoreUnavailable
from engine.ids import CellId
from engine.keys import parse_tag, tag
from engine.ledger import Position
from engine.redis_clients import open_client
from engine.redis_url import RedisAddress, SentinelAddress
from engine.sql import load_queries
from engine.stores import POSTGRES_ERRORS, Master, Stores

log = logging.getLogger(__name__)
queries = load_queries("bookings")

SILENCE_MAX_S = 0.5
"""How long a waiter relies on announcements before Postgres is asked."""
POLL_INTERVAL_S = 0.2
POLL_ROWS_MAX = 1_000
RECONNECT_INTERVAL_S = 0.2
LISTEN_TIMEOUT_S = 1.0
CANCEL_INTERVAL_S = 0.05
REJECTED_MAX = 10_000


class Settled(Enum):
    """How a wait ends."""

    DURABLE = auto()
    REJECTED = auto()
    """Postgres refused the booking, or the entry was lost with Redis: ask Postgres what is true."""
    NOT_YET = auto()
    """Not within the time: still unknown."""


class Announcement(msgspec.Struct, frozen=True):
    """The relay's word: entries after `from_seq` up to `seq` of this epoch are in Postgres."""

    cell: str
    epoch: int
    from_seq: int
    seq: int
    rejected: list[UUID] = []


class _Heard(msgspec.Struct):
    """What was announced of a cell without a gap: everything after `since` up to `until`."""

    since: Position
    until: Position


class _Waiter(msgspec.Struct, eq=False):
    cell_id: CellId
    position: Position
    booking_id: UUID
    version: int
    future: asyncio.Future[Settled]
    since_s: float

    def settle(self, outcome: Settled) -> None:
        if not self.future.done():
            self.future.set_result(outcome)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Announcement)


async def announce(
    client: redis.asyncio.Redis, cell_id: CellId, before: Position, after: Position, rejected: list[UUID]
) -> None:
    """Tell every gateway what was committed; only ever called after the commit."""
    message = Announcement(
        cell=tag(cell_id), epoch=after.epoch, from_seq=before.seq, seq=after.seq, rejected=rejected
    )
    await client.publish(keys.ANNOUNCEMENTS, _encoder.encode(message))


class Durability:
    """The waiters of one process."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._heard: dict[CellId, _Heard] = {}
        self._connections = stores.line.connections
        self._rejected: dict[UUID, None] = {}
        self._waiters: dict[CellId, set[_Waiter]] = {}
        self._doubtful = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to listen."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._ask_postgres())]

    async def close(self) -> None:
        """Stop; whoever still waits is told that it is not known yet."""
        running = set(self._tasks)
        while running:
            # Again and again: asyncio.wait_for of Python 3.11 may lose a cancellation (bpo-37658).
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=CANCEL_INTERVAL_S)
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.settle(Settled.NOT_YET)

    def is_known(self, cell_id: CellId, position: Position) -> bool:
        """Whether the announcements alone say that this entry was reached; never asks anybody."""
        self._forget_another_node()
        heard = self._heard.get(cell_id)
        return heard is not None and heard.since < position <= heard.until

    def is_durable(self, cell_id: CellId, position: Position, booking_id: UUID) -> bool:
        """Whether the announcements alone say that this entry of a booking is committed, and not refused."""
        return self.is_known(cell_id, position) and booking_id not in self._rejected

    def _forget_another_node(self) -> None:
        # A hot line that was connected anew leads to another node perhaps, one whose ledger has other
        # entries under the ids that were announced.
        if self._connections != self._stores.line.connections:
            self._connections = self._stores.line.connections
            self._heard.clear()

    async def wait(
        self, cell_id: CellId, position: Position, booking_id: UUID, version: int, timeout_ms: int
    ) -> Settled:
        """Wait until this version of a booking, written at `position`, is durable."""
        if self.is_known(cell_id, position):
            return Settled.REJECTED if booking_id in self._rejected else Settled.DURABLE
        waiter = _Waiter(
            cell_id=cell_id,
            position=position,
            booking_id=booking_id,
            version=version,
            future=asyncio.get_running_loop().create_future(),
            since_s=time.monotonic(),
        )
        waiters = self._waiters.setdefault(cell_id, set())
        waiters.add(waiter)
        if self._is_doubtful(waiter):
            self._doubtful.set()
        patience = asyncio.get_running_loop().call_later(timeout_ms / 1000, waiter.settle, Settled.NOT_YET)
        try:
            return await waiter.future
        finally:
            patience.cancel()
            waiters.discard(waiter)
            if not waiters and self._waiters.get(cell_id) is waiters:
                del self._waiters[cell_id]

    def _is_doubtful(self, waiter: _Waiter) -> bool:
        """Whether no announcement that may still come can settle this waiter."""
        heard = self._heard.get(waiter.cell_id)
        if time.monotonic() - waiter.since_s > SILENCE_MAX_S:
            return True
        return heard is not None and waiter.position <= heard.until

    def hear(self, announcement: Announcement) -> None:
        """Take one announcement in."""
        self._forget_another_node()
        cell_id = parse_tag(announcement.cell)
        before = Position(announcement.epoch, announcement.from_seq)
        until = Position(announcement.epoch, announcement.seq)
        heard = self._heard.get(cell_id)
        if heard is None or heard.until != before:
            if heard is not None and until <= heard.until:
                return
            heard = self._heard[cell_id] = _Heard(since=before, until=until)
        heard.until = until
        for booking_id in announcement.rejected:
            self._rejected[booking_id] = None
        while len(self._rejected) > REJECTED_MAX:
            # What is forgotten here must not be answered from memory any more.
            del self._rejected[next(iter(self._rejected))]
            self._heard.clear()
        for waiter in self._waiters.get(cell_id, ()):
            if heard.since < waiter.position <= until:
                waiter.settle(Settled.REJECTED if waiter.booking_id in self._rejected else Settled.DURABLE)
            elif waiter.position <= until:
                self._doubtful.set()

    async def _listen(self) -> None:
        while True:
            try:
                async with (
                    open_client(self._somewhere()) as client,
                    client.pubsub(ignore_subscribe_messages=True) as pubsub,
                ):
                    await pubsub.subscribe(keys.ANNOUNCEMENTS)
                    self._heard.clear()
                    while True:
                        message = await pubsub.get_message(timeout=LISTEN_TIMEOUT_S)
                        if message is not None:
                            self.hear(_decoder.decode(message["data"]))
            except (redis.RedisError, StoreUnavailable, OSError):
                self._heard.clear()
                await asyncio.sleep(RECONNECT_INTERVAL_S)
            except (msgspec.MsgspecError, ValueError):
                log.exception("an announcement could not be read")

    def _somewhere(self) -> RedisAddress | SentinelAddress:
        """A node of a cluster tells what is published on any; after a failure it may be another one."""
        masters: Sequence[Master] = self._stores.line.masters()
        if not masters:
            raise StoreUnavailable
        return random.choice(masters).address  # noqa: S311

    async def _ask_postgres(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._doubtful.wait(), POLL_INTERVAL_S)
            self._doubtful.clear()
            doubtful = [
                waiter
                for waiters in self._waiters.values()
                for waiter in waiters
                if not waiter.future.done() and self._is_doubtful(waiter)
            ][:POLL_ROWS_MAX]
            if not doubtful:
                continue
            try:
                await self._settle_by_rows(doubtful)
            except POSTGRES_ERRORS:
                await asyncio.sleep(POLL_INTERVAL_S)

    async def _settle_by_rows(self, waiters: list[_Waiter]) -> None:
        rows = queries.durable_versions(
            self._stores.pool,
            booking_ids=[waiter.booking_id for waiter in waiters],
            event_refs=[waiter.cell_id.event_ref for waiter in waiters],
            cells=[waiter.cell_id.cell for waiter in waiters],
        )
        async for row in rows:
            waiter = waiters[row["number"] - 1]
            if row["version"] is not None and _is_that_or_later(row, waiter):
                waiter.settle(Settled.DURABLE)
            elif row["epoch"] is not None and Position(row["epoch"], row["seq"]) >= waiter.position:
                waiter.settle(Settled.REJECTED)


def _is_that_or_later(row: Mapping[str, Any], waiter: _Waiter) -> bool:
    """Whether the booking's row has the awaited transition, or one that came after it.

    The version alone does not tell: where an epoch lost its end, another transition made the same version
    in the next one.
    """
    if row["version"] == waiter.version:
        return Position(row["ledger_epoch"], row["ledger_seq"]) == waiter.position
    return bool(row["version"] > waiter.version and row["ledger_epoch"] == waiter.position.epoch)
