"""Postgres stopped, killed, hung, and set back to an older state while Redis went on."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import asyncpg
import pytest

from engine.bookings import Answer, Bookings
from engine.errors import RushError
from engine.settings import Settings
from tests.integration.books import LedgerWatch, differences
from tests.integration.kit import (
    HANGS_S,
    Event,
    Impatience,
    Rig,
    changed,
    confirm_patiently,
    confirmed_rows,
    open_rig,
    reserve_patiently,
    until,
)
from tests.stores import MachinePostgres, PostgresServer, RedisServer


@pytest.fixture
def server(new_postgres: Callable[[], PostgresServer]) -> PostgresServer:
    """A Postgres of this test's own."""
    return new_postgres()


@pytest.fixture
async def own_rig(server: PostgresServer, quick: Settings) -> AsyncIterator[Rig]:
    """On a Postgres that may be broken."""
    async with open_rig(changed(quick, database_url=server.url, confirm_wait_ms=300)) as opened:
        yield opened


async def _stop(server: PostgresServer) -> None:
    await server.stop_async()


async def _kill(server: PostgresServer) -> None:
    server.kill()


async def _hang(server: PostgresServer) -> None:
    """Connections stay open, and nothing answers: the server and all its children are frozen."""
    for pid in [server.pid, *_children(server.pid)]:
        os.kill(pid, signal.SIGSTOP)


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


async def _back(server: PostgresServer) -> None:
    if not server.is_running:
        await server.start_async()
        return
    for pid in [server.pid, *_children(server.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("end", [_stop, _kill, _hang], ids=["stopped", "killed", "hung"])
async def test_while_postgres_is_away_reserving_goes_on_and_confirms_wait(
    own_rig: Rig, server: PostgresServer, end: Callable[[PostgresServer], Awaitable[None]]
) -> None:
    rig = own_rig
    rig.work()
    gateway = await rig.gateway()
    event = await rig.sale([100], hold_ttl_s=1)
    swept = await reserve_patiently(gateway, event, uuid4(), "swept")
    await until(lambda: _is_expired(rig, event, swept), "the sweeper has met the cell")
    early = await reserve_patiently(gateway, event, uuid4(), "early")
    await rig.caught_up(event)
    cold = await rig.gateway()
    await end(server)
    impatience = Impatience()
    answers = []
    # A gateway that has never heard of the event finds it in Redis.
    for bookings in (gateway, cold):
        for number in range(5):
            answer = await impatience.ask(bookings.reserve(uuid4(), event.items(), f"key-{number}"))
            assert answer is not None
            answers.append(answer)
    kept = [early, answers[0], answers[9]]
    waited = await asyncio.gather(
        *[cold.confirm(answer.booking.user_id, answer.booking.id) for answer in kept]
    )
    assert not any(answer.booking.durable for answer in waited)
    await gateway.cancel(answers[1].booking.user_id, answers[1].booking.id)
    # Deadlines pass all the same.
    await until(lambda: _counter(rig, event, "reserved", 0), "the sweeper works")
    assert impatience.longest_s < HANGS_S
    await _back(server)
    for answer in kept:
        await confirm_patiently(cold, answer)
    assert await differences(rig, event) == []
    rows = await rig.pool.fetch("SELECT status FROM bookings")
    statuses = sorted(row["status"] for row in rows)
    assert statuses == ["cancelled"] + ["confirmed"] * 3 + ["expired"] * 8


async def _is_expired(rig: Rig, event: Event, answer: Answer) -> bool:
    return await rig.status(event, answer) == "expired"


async def _counter(rig: Rig, event: Event, name: str, value: int) -> bool:
    return (await rig.counters(event))[name] == value


async def test_redis_that_dies_meanwhile_stays_fenced_until_postgres_is_back(
    server: PostgresServer, new_redis: Callable[..., RedisServer], quick: Settings
) -> None:
    redis_server = new_redis()
    settings = changed(quick, database_url=server.url, redis_url=redis_server.url, confirm_wait_ms=300)
    async with open_rig(settings) as rig:
        rig.work()
        gateway = await rig.gateway()
        event = await rig.sale()
        sold = await reserve_patiently(gateway, event, uuid4(), "early")
        await confirm_patiently(gateway, sold)
        server.kill()
        kept = await gateway.reserve(uuid4(), event.items(), "while it is away")
        await redis_server.restart_async(kill=True)
        impatience = Impatience()
        for _ in range(30):
            assert await impatience.ask(gateway.reserve(uuid4(), event.items(), None)) is None
            await asyncio.sleep(0.02)
        assert impatience.longest_s < HANGS_S
        await server.start_async()
        await impatience.until_selling(gateway, event)
        await confirm_patiently(gateway, kept)
        assert await differences(rig, event) == []
        assert await confirmed_rows(rig, event) == {sold.booking.id, kept.booking.id}


async def test_a_lost_cell_is_503_at_once_while_postgres_hangs(own_rig: Rig, server: PostgresServer) -> None:
    rig = own_rig
    worker = rig.work()
    gateway = await rig.gateway(changed(rig.settings, database_pool_max=2))
    event = await rig.sale()
    await reserve_patiently(gateway, event, uuid4(), "early")
    await rig.caught_up(event)
    await worker.stop()
    await _hang(server)
    await rig.redis.delete(event.keys.sale)
    impatience = Impatience()
    await asyncio.gather(*[impatience.ask(gateway.reserve(uuid4(), event.items(), None)) for _ in range(200)])
    assert impatience.refused == 200
    assert impatience.longest_s < HANGS_S
    await _back(server)
    rig.work()
    await impatience.until_selling(gateway, event)
    assert await differences(rig, event) == []


# Set back.


class Backup:
    """A copy of the database as it was; restoring it sets Postgres back."""

    def __init__(self, rig: Rig, server: PostgresServer | MachinePostgres) -> None:
        self._name = rig.settings.database_url.rpartition("/")[2]
        self._url = server.url_of("postgres")

    async def take(self) -> None:
        """Copy it; whoever is connected is thrown out for a moment."""
        await self._alone(f'CREATE DATABASE "{self._name}_backup" TEMPLATE "{self._name}"')

    async def restore(self) -> None:
        """Everything since the copy is gone."""
        await self._alone(
            f'DROP DATABASE "{self._name}"',
            f'ALTER DATABASE "{self._name}_backup" RENAME TO "{self._name}"',
        )

    async def _alone(self, *statements: str) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            await connection.execute(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS false')
            await connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", self._name
            )
            for statement in statements:
                await connection.execute(statement)
            await connection.execute(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS true')
        finally:
            await connection.close()


async def _nothing(rig: Rig, event: Event) -> None:
    """The ledger reaches back to the backup: it is carried over again."""


async def _new_epoch(rig: Rig, event: Event) -> None:
    """The cell was lifted since the backup."""
    epoch = (await rig.offset(event)).epoch
    await rig.redis.script_flush()
    await until(lambda: _is_past(rig, event, epoch), "lifted")


async def _is_past(rig: Rig, event: Event, epoch: int) -> bool:
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        position = await rig.position(event)
        return position is not None and position.epoch > epoch
    return False


async def _trim(rig: Rig, event: Event) -> None:
    """The ledger was trimmed since the backup."""
    await rig.caught_up(event)
    await rig.redis.xtrim(event.keys.ledger, maxlen=1, approximate=False)


async def _new_epoch_and_trim(rig: Rig, event: Event) -> None:
    await _new_epoch(rig, event)
    await _trim(rig, event)


@pytest.mark.parametrize("meanwhile", [_nothing, _trim, _new_epoch, _new_epoch_and_trim])
@pytest.mark.parametrize("is_stopped", [False, True], ids=["workers run", "workers start afterwards"])
async def test_postgres_set_back_is_repaired_from_redis(
    rig: Rig,
    postgres_server: PostgresServer | MachinePostgres,
    meanwhile: Callable[[Rig, Event], Awaitable[None]],
    is_stopped: bool,
) -> None:
    rig.work()
    gateway = await rig.gateway()
    event = await rig.sale([1000, 50], max_per_user=9)
    watch = LedgerWatch(rig.settings, event)
    bought = await _buy(gateway, event, "early")
    held = await reserve_patiently(gateway, event, uuid4(), "held", 3)
    to_cancel = await reserve_patiently(gateway, event, uuid4(), "cancelled later", 2)
    await rig.caught_up(event)
    backup = Backup(rig, postgres_server)
    await backup.take()
    bought |= await _buy(gateway, event, "late")
    await gateway.cancel(to_cancel.booking.user_id, to_cancel.booking.id)
    await meanwhile(rig, event)
    bought |= await _buy(gateway, event, "later")
    bought.add((await confirm_patiently(gateway, held)).booking.id)
    await rig.caught_up(event)
    if is_stopped:
        await rig.close_workers()
    await backup.restore()
    if is_stopped:
        rig.work()

    async def is_whole() -> bool:
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return await confirmed_rows(rig, event) == bought
        return False

    await reserve_patiently(gateway, event, uuid4(), "afterwards")
    await until(is_whole, "nothing confirmed is lost")
    await reserve_patiently(gateway, event, uuid4(), "and again", 1, zone=1)
    assert await differences(rig, event) == []
    assert not watch.twice
    await watch.close()


async def _buy(gateway: Bookings, event: Event, key: str) -> set[UUID]:
    """A few confirmed bookings, and one that is cancelled."""
    bought = set()
    for number in range(3):
        answer: Answer = await reserve_patiently(gateway, event, uuid4(), f"{key} {number}", 2, number % 2)
        bought.add((await confirm_patiently(gateway, answer)).booking.id)
    given_back = await reserve_patiently(gateway, event, uuid4(), f"{key} given back")
    await gateway.cancel(given_back.booking.user_id, given_back.booking.id)
    return bought


async def test_a_refused_confirm_says_503_while_nobody_can_know(own_rig: Rig, server: PostgresServer) -> None:
    """Redis forgot the booking and Postgres is away: neither yes nor no."""
    rig = own_rig
    rig.work()
    gateway = await rig.gateway()
    event = await rig.sale()
    answer = await reserve_patiently(gateway, event, uuid4(), "mine")
    await rig.caught_up(event)
    server.kill()
    await rig.redis.delete(event.keys.booking(answer.booking.id))
    with pytest.raises(RushError) as refused:
        await gateway.confirm(answer.booking.user_id, answer.booking.id)
    assert refused.value.http_status == 503
    await server.start_async()
