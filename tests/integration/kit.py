"""A small installation for tests: an event on sale, gateways, workers, and the books compared at the end."""

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

import asyncpg
import msgspec
import redis
import redis.asyncio

from engine import ids
from engine.booking import ItemRequest, parse_record
from engine.bookings import Answer, Bookings
from engine.cells import publish_cell, wait_until_open
from engine.errors import ServiceUnavailable
from engine.ids import CellId
from engine.keys import CellKeys
from engine.ledger import Position
from engine.settings import Settings
from engine.stores import Stores, open_stores
from workers.runner import run_workers

OPEN_TIMEOUT_MS = 15_000
WAIT_TIMEOUT_S = 20.0
POLL_S = 0.01
COUNTERS = ("capacity", "available", "reserved", "confirmed", "blocked")
WORKERS = ("recovery", "relay", "expiry")

T = TypeVar("T")


async def until(
    condition: Callable[[], T | Awaitable[T]], what: str = "", timeout_s: float = WAIT_TIMEOUT_S
) -> T:
    """Poll until the condition is true; its value. Fails after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value  # type: ignore[return-value]
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what or condition}"
        await asyncio.sleep(POLL_S)


class Event(NamedTuple):
    """An event as a test set it up."""

    id: UUID
    show: UUID
    zones: list[UUID]
    max_per_user: int

    @property
    def cell(self) -> CellId:
        """Its cell."""
        return ids.cell_of(self.id)

    @property
    def keys(self) -> CellKeys:
        """The Redis keys of its cell."""
        return CellKeys(self.cell)

    def items(self, quantity: int = 1, zone: int = 0) -> list[ItemRequest]:
        """A request for so many of one zone."""
        return [ItemRequest(self.zones[zone], quantity)]


async def insert_event(
    pool: asyncpg.Pool | asyncpg.Connection,
    capacities: Sequence[int] = (100,),
    *,
    max_per_user: int = 4,
    hold_ttl_s: int = 600,
    waiting_room: dict[str, Any] | None = None,
    publish: bool = True,
) -> Event:
    """Write a published event into Postgres; recovery opens it, if one works."""
    event_id = ids.new_event_id()
    ref = ids.event_ref_of(event_id)
    event = Event(event_id, ids.new_id(ref), [ids.new_id(ref) for _ in capacities], max_per_user)
    async with contextlib.AsyncExitStack() as stack:
        connection = pool
        if isinstance(pool, asyncpg.Pool):
            connection = await stack.enter_async_context(pool.acquire())
        await stack.enter_async_context(connection.transaction())
        await connection.execute(
            "INSERT INTO events (id, organizer_id, title, slug, currency, status, sale_start_at, "
            "max_per_user, hold_ttl_seconds, booking_secret, waiting_room) "
            "VALUES ($1, $2, 'A concert', $3, 'GBP', 'published', now() - interval '1 hour', $4, $5, $6, $7)",
            event_id,
            uuid4(),
            f"concert-{ref}",
            max_per_user,
            hold_ttl_s,
            bytes(range(32)),
            None if waiting_room is None else msgspec.json.encode(waiting_room).decode(),
        )
        await connection.execute(
            "INSERT INTO shows (id, event_id, show_date) VALUES ($1, $2, now() + interval '30 days')",
            event.show,
            event_id,
        )
        for number, (zone, capacity) in enumerate(zip(event.zones, capacities, strict=True)):
            await connection.execute(
                "INSERT INTO seat_zones (id, show_id, event_id, name, price_minor, capacity, "
                "available_seats) VALUES ($1, $2, $3, $4, 0, $5, $5)",
                zone,
                event.show,
                event_id,
                f"zone {number}",
                capacity,
            )
        if publish:
            await publish_cell(connection, event_id)
    return event


class Worker:
    """Some workers in this process, on stores of their own."""

    def __init__(self, settings: Settings, names: Sequence[str]) -> None:
        self._stop = asyncio.Event()
        self.task = asyncio.create_task(run_workers(settings, list(names), self._stop))

    async def stop(self) -> None:
        """In order."""
        self._stop.set()
        await self.task

    async def cut(self) -> None:
        """At once, wherever they are."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
            await self.task


class Rig:
    """What one test runs; everything ends with it."""

    def __init__(self, settings: Settings, stores: Stores) -> None:
        self.settings = settings
        self.stores = stores
        self.redis = stores.redis
        self.pool = stores.pool
        self._workers: list[Worker] = []
        self._gateways: list[tuple[Stores, Bookings]] = []

    def work(self, *names: str, settings: Settings | None = None) -> Worker:
        """Start workers, all that bookings need when none is named."""
        worker = Worker(settings or self.settings, names or WORKERS)
        self._workers.append(worker)
        return worker

    async def gateway(self, settings: Settings | None = None) -> Bookings:
        """What a gateway process has: bookings on stores of their own."""
        stores = await open_stores(settings or self.settings)
        bookings = Bookings(stores)
        await bookings.start()
        self._gateways.append((stores, bookings))
        return bookings

    async def sale(self, capacities: Sequence[int] = (100,), **options: Any) -> Event:
        """An event on sale; a recovery must be working."""
        event = await insert_event(self.pool, capacities, **options)
        await wait_until_open(self.stores, event.id, OPEN_TIMEOUT_MS)
        return event

    async def close(self) -> None:
        """End all of it."""
        for stores, bookings in self._gateways:
            await bookings.close()
            await stores.close()
        await self.close_workers()

    async def close_workers(self) -> None:
        """Stop all workers in order."""
        results = await asyncio.gather(
            *[worker.stop() for worker in self._workers if not worker.task.cancelled()],
            return_exceptions=True,
        )
        self._workers.clear()
        for result in results:
            if isinstance(result, Exception):
                raise result

    # What the stores say.

    async def position(self, event: Event) -> Position | None:
        """Where `sale` says that the ledger is; None where the cell is not open."""
        epoch, seq = await self.redis.hmget(event.keys.sale, ["epoch", "seq"])
        return Position(int(epoch), int(seq)) if epoch is not None and seq is not None else None

    async def offset(self, event: Event) -> Position:
        """How far Postgres is."""
        row = await self.pool.fetchrow(
            "SELECT epoch, seq FROM cells WHERE event_ref = $1 AND cell = $2", *event.cell
        )
        return Position(row["epoch"], row["seq"])

    async def caught_up(self, event: Event) -> Position:
        """Wait until the cell is open, has all its records, and all of its ledger is in Postgres."""

        async def is_there() -> Position | None:
            with contextlib.suppress(redis.RedisError, OSError):
                position = await self.position(event)
                is_whole = not await self.redis.hexists(event.keys.sale, "loaded")
                if is_whole and position is not None and position == await self.offset(event):
                    return position
            return None

        position = await until(is_there, "the relay has caught up")
        assert position is not None
        return position

    async def counters(self, event: Event, zone: int = 0) -> dict[str, int]:
        """The counters of a zone in Redis."""
        return await zone_counters(self.redis, event.keys, event.zones[zone])

    async def status(self, event: Event, answer: Answer) -> str:
        """The status of a booking in Redis."""
        text = await self.redis.get(event.keys.booking(answer.booking.id))
        return parse_record(text).status if text else ""


@contextlib.asynccontextmanager
async def open_rig(settings: Settings) -> AsyncIterator[Rig]:
    """`async with open_rig(settings) as rig`."""
    stores = await open_stores(settings, "test")
    rig = Rig(settings, stores)
    try:
        yield rig
    finally:
        try:
            await rig.close()
        finally:
            await stores.close()


async def zone_counters(client: redis.asyncio.Redis, keys: CellKeys, zone: UUID) -> dict[str, int]:
    """capacity, available, reserved, confirmed, blocked of one zone."""
    values = await client.hmget(keys.zone(zone), list(COUNTERS))
    return {name: int(value) for name, value in zip(COUNTERS, values, strict=True)}


# Buyers.


async def reserve_patiently(
    bookings: Bookings, event: Event, user: UUID, key: str, quantity: int = 1, zone: int = 0
) -> Answer:
    """Reserve with a key, again after every 503, as a client should."""
    deadline_s = time.monotonic() + WAIT_TIMEOUT_S
    while True:
        try:
            return await bookings.reserve(user, event.items(quantity, zone), key)
        except ServiceUnavailable:
            assert time.monotonic() < deadline_s, "503 for too long"
            await asyncio.sleep(0.02)


async def confirm_patiently(bookings: Bookings, answer: Answer) -> Answer:
    """Confirm until it is durable."""
    deadline_s = time.monotonic() + WAIT_TIMEOUT_S
    while True:
        try:
            confirmed = await bookings.confirm(answer.booking.user_id, answer.booking.id)
            if confirmed.booking.durable:
                return confirmed
        except ServiceUnavailable:
            await asyncio.sleep(0.02)
        assert time.monotonic() < deadline_s, "not durable for too long"


async def confirmed_rows(rig: Rig, event: Event) -> set[UUID]:
    """The bookings that Postgres has as confirmed."""
    rows = await rig.pool.fetch(
        "SELECT id FROM bookings WHERE event_id = $1 AND status = 'confirmed'", event.id
    )
    return {row["id"] for row in rows}


HANGS_S = 2.5
"""An answer that takes longer than this was waited for, not given at once."""


class Impatience:
    """How long each answer took, so that a 503 is one at once and no hanging."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.refused = 0

    async def ask(self, call: Awaitable[T]) -> T | None:
        """The answer, or None for a 503."""
        started_s = time.monotonic()
        try:
            return await call
        except ServiceUnavailable:
            self.refused += 1
            return None
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - started_s)

    async def until_selling(self, bookings: Bookings, event: Event) -> Answer:
        """Press the button until it sells."""

        async def press() -> Answer | None:
            return await self.ask(bookings.reserve(uuid4(), event.items(), None))

        answer = await until(press, "selling again")
        assert answer is not None
        return answer


def changed(settings: Settings, **values: Any) -> Settings:
    """The settings with some of them changed."""
    return msgspec.structs.replace(settings, **values)
