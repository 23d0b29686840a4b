"""A replica is promoted that lacks the last entries; and the demoted master, which kept its scripts, again.

Two nets keep what such a node says from being believed: recovery takes the scripts from every replica, and
the relay looks at the replication id of what it reads. Each is shown with the other one taken away.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
import redis
import redis.asyncio

from engine.bookings import Answer, Bookings
from engine.errors import RushError
from engine.scripts import Scripts
from engine.settings import Settings
from engine.stores import open_redis
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
from tests.integration.proxy import Proxy
from tests.stores import RedisServer


class Pair:
    """A master, its replica, and the address that leads to whichever is the master."""

    def __init__(
        self, rig: Rig, servers: list[RedisServer], proxy: Proxy, clients: list[redis.asyncio.Redis]
    ):
        self.rig, self.proxy = rig, proxy
        self._servers, self._clients = servers, clients
        self.master = 0

    @property
    def replica(self) -> redis.asyncio.Redis:
        """The one that is not the master."""
        return self._clients[1 - self.master]

    async def follow(self) -> None:
        """The other one follows the master, and has all of it."""
        await self.replica.execute_command("REPLICAOF", "127.0.0.1", self._servers[self.master].port)
        await until(self._is_in_step, "the replica is in step")

    async def _is_in_step(self) -> bool:
        there, here = (
            await self._clients[self.master].info("replication"),
            await self.replica.info("replication"),
        )
        return (
            here.get("master_link_status") == "up"
            and here["master_replid"] == there["master_replid"]
            and here["slave_repl_offset"] == there["master_repl_offset"]
        )

    async def cut_off(self) -> None:
        """From now on the replica misses what happens; it still is one."""
        await self.replica.config_set("masterauth", "wrong")
        master = self._clients[self.master]
        await until(lambda: self._kill_links(master), "the link is cut")

    async def _kill_links(self, master: redis.asyncio.Redis) -> bool:
        await master.execute_command("CLIENT", "KILL", "TYPE", "replica")
        return (await self.replica.info("replication"))["master_link_status"] == "down"

    async def promote(self, *, demote: bool = False) -> None:
        """The replica becomes the master; the old one stays as it is, or follows the new one."""
        await self.replica.execute_command("REPLICAOF", "NO", "ONE")
        await self.replica.config_set("masterauth", self._servers[0].store.password)
        self.master = 1 - self.master
        self.proxy.switch(self._servers[self.master].port)
        if demote:
            await self.follow()

    async def has_scripts(self, client: redis.asyncio.Redis) -> bool:
        """Whether any verb would run there."""
        return any(await client.script_exists(*[script.sha for script in Scripts().group("verb")]))


@pytest.fixture
async def pair(new_redis: Callable[..., RedisServer], quick: Settings) -> AsyncIterator[Pair]:
    """Two servers, the second one following the first, behind one address."""
    servers = [new_redis()]
    servers.append(new_redis(replica_of=servers[0]))
    proxy = Proxy(servers[0].port)
    await proxy.start()
    clients = [open_redis(changed(quick, redis_url=server.url)) for server in servers]
    url = servers[0].url.replace(f":{servers[0].port}/", f":{proxy.port}/")
    try:
        async with open_rig(changed(quick, redis_url=url)) as rig:
            pair = Pair(rig, servers, proxy, clients)
            await until(pair._is_in_step, "the replica is in step")
            yield pair
    finally:
        await proxy.close()
        for client in clients:
            await client.aclose()


async def _sell(gateway: Bookings, event: Event, count: int) -> list[Answer]:
    return [await reserve_patiently(gateway, event, uuid4(), str(uuid4())) for _ in range(count)]


async def _told_200(gateway: Bookings, answers: list[Answer]) -> set[object]:
    """Those of them that are told so now."""
    outcomes = await asyncio.gather(
        *[gateway.confirm(answer.booking.user_id, answer.booking.id) for answer in answers],
        return_exceptions=True,
    )
    return {
        outcome.booking.id for outcome in outcomes if isinstance(outcome, Answer) and outcome.booking.durable
    }


async def test_a_promoted_replica_that_lacks_the_end_is_rebuilt(pair: Pair) -> None:
    rig = pair.rig
    rig.work()
    gateway = await rig.gateway()
    event = await rig.sale([1000])
    watch = LedgerWatch(rig.settings, event)
    early = await _sell(gateway, event, 3)
    await pair.cut_off()
    late = await _sell(gateway, event, 5)
    for answer in [*early, *late]:
        await confirm_patiently(gateway, answer)
    await rig.caught_up(event)
    epoch = (await rig.offset(event)).epoch
    await pair.promote()
    impatience = Impatience()
    await impatience.until_selling(gateway, event)
    assert impatience.refused > 0
    assert impatience.longest_s < HANGS_S
    assert (await rig.caught_up(event)).epoch > epoch
    assert {answer.booking.id for answer in [*early, *late]} <= await confirmed_rows(rig, event)
    assert (await rig.counters(event))["confirmed"] == 8
    for answer in late:
        again = await gateway.confirm(answer.booking.user_id, answer.booking.id)
        assert again.replayed
        assert again.booking.durable
    assert await differences(rig, event) == []
    assert not watch.twice
    await watch.close()


async def test_a_confirm_waiting_across_a_promotion_is_answered_by_postgres(pair: Pair) -> None:
    rig = pair.rig
    rig.work("recovery")
    relay = rig.work("relay")
    gateway = await rig.gateway(changed(rig.settings, confirm_wait_ms=20_000))
    event = await rig.sale([1000])
    [answer] = await _sell(gateway, event, 1)
    await rig.caught_up(event)
    await relay.stop()
    await pair.cut_off()
    waiting = asyncio.create_task(gateway.confirm(answer.booking.user_id, answer.booking.id))

    async def is_confirmed() -> bool:
        return await rig.status(event, answer) == "confirmed"

    await until(is_confirmed)
    await pair.promote()
    await _sell(gateway, event, 5)
    rig.work("relay")
    await rig.caught_up(event)
    [outcome] = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(outcome, RushError), "it was lost, and it does not pass for confirmed"
    assert outcome.http_status == 503
    assert await confirmed_rows(rig, event) == set()
    await confirm_patiently(gateway, answer)
    assert await differences(rig, event) == []


async def test_a_to_b_to_a_the_first_net_alone(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demoted master kept its scripts. Recovery takes them from it, and the relay sees nothing."""
    rig = pair.rig
    monkeypatch.setattr("workers.recovery.Recovery._is_foreign", _never)
    monkeypatch.setattr("workers.recovery.REPLICAS_INTERVAL_S", 0.1)
    _make_the_relay_blind(monkeypatch)
    rig.work()
    gateway = await rig.gateway()
    event = await rig.sale([1000])
    watch = LedgerWatch(rig.settings, event)
    await _sell(gateway, event, 3)
    await rig.caught_up(event)
    await pair.promote(demote=True)  # B
    sold = await _sell(gateway, event, 3)
    await until(lambda: _has_none(pair), "the scripts of the demoted master are gone")
    await pair.cut_off()
    sold += await _sell(gateway, event, 5)
    for answer in sold:
        await confirm_patiently(gateway, answer)
    await rig.caught_up(event)
    await pair.promote()  # A again, without the last entries
    sold += await _sell(gateway, event, 4)
    for answer in sold:
        await confirm_patiently(gateway, answer)
    assert {answer.booking.id for answer in sold} <= await confirmed_rows(rig, event)
    assert await differences(rig, event) == []
    assert not watch.twice
    await watch.close()


@pytest.mark.parametrize("more", [1, 30], ids=["fewer entries than it lacks", "more than it lacks"])
async def test_a_to_b_to_a_the_second_net_alone(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """Nobody takes the scripts from the demoted master, so it serves before it is fenced."""
    rig = pair.rig
    monkeypatch.setattr("workers.recovery.Recovery._flush_replicas", _nothing)
    recovery = rig.work("recovery")
    relay = rig.work("relay")
    gateway = await rig.gateway()
    event = await rig.sale([1000])
    await _sell(gateway, event, 3)
    await rig.caught_up(event)
    await pair.promote(demote=True)  # B
    durable = await _sell(gateway, event, 3)
    assert await pair.has_scripts(pair.replica), "the demoted master kept them"
    await rig.caught_up(event)
    await until(lambda: _in_step(pair), "the demoted master is in step")
    await pair.cut_off()
    durable += await _sell(gateway, event, 5)
    for answer in durable:
        await confirm_patiently(gateway, answer)
    await rig.caught_up(event)
    await recovery.stop()  # so that there is time for wrong to be done
    await pair.promote()  # A again: it serves at once, without the last entries
    false = await _sell(gateway, event, more)
    assert await pair.has_scripts(pair.replica)
    told = await _told_200(gateway, false)
    assert told <= await confirmed_rows(rig, event), "the relay carries nothing of it"
    assert not told
    epoch = (await rig.offset(event)).epoch
    rig.work("recovery")

    async def is_lifted() -> bool:
        position = await rig.position(event)
        return position is not None and position.epoch > epoch

    await until(is_lifted, "it is fenced, and lifted")
    await relay.stop()
    rig.work("relay")
    sold = await _sell(gateway, event, 3)
    for answer in sold:
        await confirm_patiently(gateway, answer)
    assert {answer.booking.id for answer in [*durable, *sold]} <= await confirmed_rows(rig, event)
    assert await differences(rig, event) == []


async def test_attaching_the_first_replica_loses_nothing(
    new_redis: Callable[..., RedisServer], quick: Settings
) -> None:
    """The master takes a new replication id then, so it is fenced and lifted, with all that it has."""
    server = new_redis()
    async with open_rig(changed(quick, redis_url=server.url)) as rig:
        rig.work()
        gateway = await rig.gateway()
        event = await rig.sale([1000])
        sold = await _sell(gateway, event, 3)
        replica = new_redis(replica_of=server)
        for _ in range(40):
            sold += await _sell(gateway, event, 5)
            await asyncio.sleep(0.01)
        await until(lambda: _is_linked(replica, quick), "the replica is attached")
        sold += await _sell(gateway, event, 5)
        await rig.caught_up(event)
        rows = await rig.pool.fetch("SELECT id FROM bookings")
        assert {answer.booking.id for answer in sold} == {row["id"] for row in rows}
        assert await differences(rig, event) == []


async def _is_linked(replica: RedisServer, settings: Settings) -> bool:
    client = open_redis(changed(settings, redis_url=replica.url))
    try:
        return (await client.info("replication"))["master_link_status"] == "up"
    finally:
        await client.aclose()


async def _never(*_: object) -> bool:
    return False


async def _nothing(*_: object) -> None:
    return None


async def _has_none(pair: Pair) -> bool:
    return not await pair.has_scripts(pair.replica)


async def _in_step(pair: Pair) -> bool:
    return await pair._is_in_step()


def _make_the_relay_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """It believes that it reads the node that recovery opened, whichever it is."""
    from workers.relay import Relay

    carry = Relay._carry

    async def blind(self: Relay, cell: object, entries: object, replid: str) -> int:
        return await carry(self, cell, entries, cell.replid)  # type: ignore[arg-type, attr-defined]

    monkeypatch.setattr(Relay, "_carry", blind)
