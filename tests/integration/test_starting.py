"""Gateways and workers that start before their stores, and stop while one of them is away."""

import asyncio
import signal
import time
from collections.abc import Callable
from uuid import uuid4

import pytest

from engine.errors import ServiceUnavailable
from engine.settings import Settings
from tests.integration.books import differences
from tests.integration.kit import (
    HANGS_S,
    Impatience,
    changed,
    confirm_patiently,
    insert_event,
    open_rig,
    until,
)
from tests.integration.processes import Processes
from tests.stores import PostgresServer, RedisServer

STOP_S = 20.0


@pytest.mark.parametrize("away", ["redis", "postgres", "both"])
async def test_what_starts_before_its_stores_works_once_they_are_there(
    quick: Settings,
    new_redis: Callable[..., RedisServer],
    new_postgres: Callable[[], PostgresServer],
    away: str,
) -> None:
    redis_server, postgres_server = new_redis(), new_postgres()
    settings = changed(quick, redis_url=redis_server.url, database_url=postgres_server.url)
    async with open_rig(settings) as rig:
        event = await insert_event(rig.pool)
    if away in ("redis", "both"):
        await redis_server.stop_async()
    if away in ("postgres", "both"):
        await postgres_server.stop_async()
    async with open_rig(settings) as rig:
        rig.work("recovery", "relay", "expiry", "publisher")
        gateway = await rig.gateway()
        impatience = Impatience()
        for _ in range(10):
            assert await impatience.ask(gateway.reserve(uuid4(), event.items(), None)) is None
            with pytest.raises(ServiceUnavailable):
                await gateway.get(uuid4(), event.zones[0])
        assert impatience.longest_s < HANGS_S
        if away in ("postgres", "both"):
            await postgres_server.start_async()
        if away in ("redis", "both"):
            await redis_server.start_async()
        await confirm_patiently(gateway, await impatience.until_selling(gateway, event))
        assert await differences(rig, event) == []


async def _redis_gone(redis_server: RedisServer, postgres_server: PostgresServer) -> None:
    redis_server.kill()


async def _postgres_gone(redis_server: RedisServer, postgres_server: PostgresServer) -> None:
    postgres_server.kill()


async def _redis_hung(redis_server: RedisServer, postgres_server: PostgresServer) -> None:
    redis_server.pause()


async def _none_gone(redis_server: RedisServer, postgres_server: PostgresServer) -> None:
    pass


@pytest.mark.parametrize("end", [_none_gone, _redis_gone, _postgres_gone, _redis_hung])
async def test_workers_and_gateways_end_on_sigterm_whatever_is_away(
    quick: Settings,
    new_redis: Callable[..., RedisServer],
    new_postgres: Callable[[], PostgresServer],
    processes: Processes,
    end: Callable[..., object],
) -> None:
    redis_server, postgres_server = new_redis(), new_postgres()
    settings = changed(quick, redis_url=redis_server.url, database_url=postgres_server.url)
    working = processes.work(settings, "recovery", "relay", "expiry", "publisher")
    gateway, _ = await processes.gateway(settings)
    async with open_rig(settings) as rig:
        event = await rig.sale()
        await (await rig.gateway()).reserve(uuid4(), event.items(), None)
        await rig.caught_up(event)
        await working.said("the relay takes")
    await end(redis_server, postgres_server)  # type: ignore[misc]
    started_s = time.monotonic()
    for process in (working, gateway):
        process.signal(signal.SIGTERM)
    codes = [await process.ended(STOP_S) for process in (working, gateway)]
    assert codes == [0, 0], working.log[-3000:] + gateway.log[-3000:]
    assert time.monotonic() - started_s < STOP_S
    assert "Traceback" not in working.log, working.log[-3000:]


async def test_a_worker_that_is_stopped_lets_another_go_on_at_once(
    quick: Settings, processes: Processes
) -> None:
    first = processes.work(quick, "recovery", "relay")
    async with open_rig(quick) as rig:
        event = await rig.sale()
        gateway = await rig.gateway()
        await first.said("the relay takes")
        second = processes.work(quick, "recovery", "relay")
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0
        await second.said("the relay takes")
        for _ in range(3):
            await confirm_patiently(gateway, await gateway.reserve(uuid4(), event.items(), None))
        await rig.redis.script_flush()
        await Impatience().until_selling(gateway, event)
        assert await differences(rig, event) == []
        assert await until(lambda: second.code is None)
        await asyncio.sleep(0)
