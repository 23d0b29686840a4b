"""Nodes of a cluster die, freeze and are replaced; the sales on the others notice nothing of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.settings import Settings
from engine.slots import slot_of_cell
from tests.cluster import Cluster, ClusterServer
from tests.integration.books import LedgerWatch, differences
from tests.integration.crowd import Crowd
from tests.integration.kit import Event, Rig, changed, confirmed_rows, open_rig, until
from tests.stores import machine_redis

pytestmark = pytest.mark.timeout(180)

PATIENCE_S = 60.0


class Site:
    """Three masters with a replica each, a sale on two of the masters, and buyers on both."""

    def __init__(self, rig: Rig, cluster: Cluster) -> None:
        self.rig, self.cluster = rig, cluster

    async def sales(self) -> tuple[ClusterServer, Event, Event]:
        """A master, the sale that lives on it, and one that lives on another."""
        first = await self.rig.sale([10_000], max_per_user=2)
        server = await self._owner(first)
        while True:
            second = await self.rig.sale([10_000], max_per_user=2)
            if await self._owner(second) is not server:
                return server, first, second

    async def _owner(self, event: Event) -> ClusterServer:
        return await asyncio.to_thread(self.cluster.owner, slot_of_cell(event.cell))

    async def is_elsewhere(self, event: Event, before: ClusterServer) -> bool:
        """Whether the cluster has found another master for a sale."""
        others = [node for node in self.cluster.nodes if node is not before]
        return await asyncio.to_thread(self.cluster.owner, slot_of_cell(event.cell), others) is not before


@pytest.fixture
async def site(tmp_path: Path, quick: Settings, is_machine: bool) -> AsyncIterator[Site]:
    """A cluster of this test's own, with gateway and workers; to be broken."""
    cluster = Cluster(tmp_path, binary=machine_redis() if is_machine else None, has_replicas=True)
    try:
        cluster.start()
        async with open_rig(changed(quick, redis_url=cluster.url)) as rig:
            yield Site(rig, cluster)
    finally:
        cluster.kill()


@pytest.mark.parametrize("is_frozen", [False, True], ids=["killed", "frozen"])
async def test_a_replica_takes_over_while_people_buy(site: Site, is_frozen: bool) -> None:
    rig = site.rig
    rig.work()
    gateway = await rig.gateway()
    server, event, bystander = await site.sales()
    watch = LedgerWatch(rig.settings, event)
    async with Crowd(gateway, event) as crowd, Crowd(gateway, bystander) as undisturbed:
        await until(lambda: crowd.confirmed > 10 and undisturbed.confirmed > 10, "they buy")
        epochs = [(await rig.offset(each)).epoch for each in (event, bystander)]
        if is_frozen:
            server.pause()
        else:
            server.kill()
        await until(lambda: site.is_elsewhere(event, server), "a replica takes over", PATIENCE_S)
        before = crowd.confirmed
        await until(lambda: crowd.confirmed > before + 10, "they buy again", PATIENCE_S)
        # The old master comes back, believes for a moment to be the master still, and follows.
        if is_frozen:
            server.resume()
        else:
            await server.start_async()
        await until(lambda: _is_replica(server), "the old master follows", PATIENCE_S)
        before = crowd.confirmed
        await until(lambda: crowd.confirmed > before + 10, "they go on", PATIENCE_S)
    assert undisturbed.refused == 0
    for sale, buyers in ((event, crowd), (bystander, undisturbed)):
        assert await differences(rig, sale) == []
        assert buyers.told_confirmed <= await confirmed_rows(rig, sale)
    assert (await rig.offset(event)).epoch > epochs[0]
    assert (await rig.offset(bystander)).epoch == epochs[1]
    assert watch.twice == []
    await watch.close()


async def _is_replica(server: ClusterServer) -> bool:
    client = server.client()
    try:
        return bool((await client.info("replication"))["role"] == "slave")
    finally:
        await client.aclose()


async def test_a_master_that_restarts_is_lifted_alone(site: Site) -> None:
    """It comes back before anybody takes its place."""
    rig = site.rig
    for replica in site.cluster.replicas:
        replica.kill()
    rig.work()
    gateway = await rig.gateway()
    server, event, bystander = await site.sales()
    async with Crowd(gateway, event) as crowd, Crowd(gateway, bystander) as undisturbed:
        await until(lambda: crowd.confirmed > 10 and undisturbed.confirmed > 10, "they buy")
        epochs = [(await rig.offset(each)).epoch for each in (event, bystander)]
        await server.restart_async(kill=True)
        before = crowd.confirmed
        await until(lambda: crowd.confirmed > before + 10, "they buy again", PATIENCE_S)
    assert undisturbed.refused == 0
    for sale, buyers in ((event, crowd), (bystander, undisturbed)):
        assert await differences(rig, sale) == []
        assert buyers.told_confirmed <= await confirmed_rows(rig, sale)
    assert (await rig.offset(event)).epoch > epochs[0]
    assert (await rig.offset(bystander)).epoch == epochs[1]
