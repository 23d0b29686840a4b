"""Sentinels in the URL: the master they name is the one that sells, before and after a fail-over."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest
import redis.exceptions

from engine.settings import Settings
from tests.integration.books import LedgerWatch, differences
from tests.integration.kit import (
    Impatience,
    Rig,
    changed,
    confirm_patiently,
    confirmed_rows,
    open_rig,
    reserve_patiently,
    until,
)
from tests.sentinels import SERVICE, sentinel_url, start_sentinels
from tests.stores import RedisServer, Server

# An election that no sentinel wins is held again later.
pytestmark = pytest.mark.timeout(120)


class Watched:
    """A master and its replica, watched by three sentinels."""

    def __init__(self, rig: Rig, servers: list[RedisServer], sentinels: list[Server]) -> None:
        self.rig, self.servers, self.sentinels = rig, servers, sentinels

    async def role(self, number: int) -> str:
        """What one of the servers says that it is."""
        client = self.servers[number].client()
        try:
            return str((await client.info("replication"))["role"])
        finally:
            await client.aclose()


@pytest.fixture
async def watched(
    new_redis: Callable[..., RedisServer], quick: Settings, tmp_path: Path
) -> AsyncIterator[Watched]:
    """Two servers; the settings lead to the sentinels alone."""
    servers = [new_redis()]
    servers.append(new_redis(replica_of=servers[0]))
    sentinels = start_sentinels(tmp_path, servers[0])
    try:
        for sentinel in sentinels:
            await until(lambda sentinel=sentinel: _knows_all(sentinel), "the sentinels know each other")
        async with open_rig(changed(quick, redis_url=sentinel_url(sentinels, servers[0]))) as rig:
            yield Watched(rig, servers, sentinels)
    finally:
        for sentinel in sentinels:
            sentinel.kill()


async def _knows_all(sentinel: Server) -> bool:
    client = sentinel.client()
    try:
        reply = await client.execute_command("SENTINEL", "MASTER", SERVICE)
        fields = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
        known = {_text(name): _text(value) for name, value in fields.items()}
        return known["num-other-sentinels"] == "2" and known["num-slaves"] == "1"
    finally:
        await client.aclose()


def _text(value: bytes | str | int) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def test_the_sale_goes_on_at_the_promoted_replica(watched: Watched) -> None:
    rig = watched.rig
    rig.work()
    gateway = await rig.gateway()
    event = await rig.sale([1000])
    watch = LedgerWatch(rig.settings, event)
    before = [await reserve_patiently(gateway, event, uuid4(), str(uuid4())) for _ in range(5)]
    for answer in before:
        await confirm_patiently(gateway, answer)
    watched.servers[0].kill()
    after = await Impatience().until_selling(gateway, event)
    await confirm_patiently(gateway, after)
    assert await watched.role(1) == "master"
    assert await differences(rig, event) == []
    assert {answer.booking.id for answer in [*before, after]} <= await confirmed_rows(rig, event)
    assert watch.twice == []
    await watch.close()
    # The old master comes back, and is a replica now: nobody is led to it.
    await watched.servers[0].start_async()
    await until(lambda: _is_replica(watched), "the old master follows the new one")
    again = await reserve_patiently(gateway, event, uuid4(), str(uuid4()))
    await confirm_patiently(gateway, again)
    assert await differences(rig, event) == []


async def _is_replica(watched: Watched) -> bool:
    # The sentinels cut all connections when they make it one.
    with contextlib.suppress(redis.exceptions.ConnectionError):
        return await watched.role(0) == "slave"
    return False


async def test_a_sentinel_that_is_frozen_is_passed_over(watched: Watched) -> None:
    watched.sentinels[0].pause()
    watched.rig.work()
    gateway = await watched.rig.gateway()
    event = await watched.rig.sale([10])
    answers = await asyncio.gather(
        *[reserve_patiently(gateway, event, uuid4(), str(uuid4())) for _ in range(3)]
    )
    for answer in answers:
        await confirm_patiently(gateway, answer)
    assert await differences(watched.rig, event) == []
