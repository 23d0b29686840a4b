"""A real Redis Cluster for tests: masters, replicas, slots, and moving them."""

import asyncio
import time
from pathlib import Path
from typing import Any

import redis

from engine.redis_url import ClusterAddress, parse_redis_url
from engine.slots import SLOTS
from rush.redis_store import RedisStore
from rush.store import free_port
from tests.stores import POLL_S, RedisServer, Server

NODE_TIMEOUT_MS = 1_500
CLUSTER_TIMEOUT_S = 45.0


def sync_client(url: str, key: str) -> redis.Redis:
    """A client that blocks, of the node that has this key: RUSH_REDIS_URL is one node, or a cluster."""
    address = parse_redis_url(url)
    if not isinstance(address, ClusterAddress):
        return redis.Redis.from_url(url)
    first = address.nodes[0]
    cluster = redis.RedisCluster(host=first.host, port=first.port, password=first.password)
    return cluster.get_redis_connection(cluster.get_node_from_key(key))


class ClusterServer(RedisServer):
    """One node."""

    def __init__(self, folder: Path, *, binary: Path | None = None, password: str = "") -> None:
        lines = [
            "cluster-enabled yes",
            f"cluster-port {free_port()}",
            f"cluster-node-timeout {NODE_TIMEOUT_MS}",
            "cluster-require-full-coverage no",
            # However long its master was away: a test that kills one waits for its replica.
            "cluster-replica-validity-factor 0",
        ]
        store = RedisStore(folder, binary=binary, further_lines=lines)
        store.password = password
        Server.__init__(self, store, folder)
        self.store = store

    @property
    def id(self) -> str:
        """Its name in the cluster."""
        with self.sync_client() as client:
            return client.execute_command("CLUSTER", "MYID").decode()


class Cluster:
    """Started with `start`: `masters` and, for each of them, one replica if there are to be any."""

    def __init__(
        self, folder: Path, *, binary: Path | None = None, masters: int = 3, has_replicas: bool = False
    ) -> None:
        count = masters * 2 if has_replicas else masters
        first = ClusterServer(folder / "node-0", binary=binary)
        first.store.prepare()
        password = first.store.password
        self.nodes = [first] + [
            ClusterServer(folder / f"node-{number}", binary=binary, password=password)
            for number in range(1, count)
        ]
        self.masters, self.replicas = self.nodes[:masters], self.nodes[masters:]

    @property
    def url(self) -> str:
        """What RUSH_REDIS_URL is."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://:{self.nodes[0].store.password}@{hosts}"

    def start(self) -> None:
        """Start all nodes and make a cluster of them."""
        for node in self.nodes:
            node.spawn()
        self._wait(lambda: all(node.store.answers() for node in self.nodes))
        share = -(-SLOTS // len(self.masters))
        for number, node in enumerate(self.masters):
            with node.sync_client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                last = min((number + 1) * share, SLOTS) - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, last)
        with self.nodes[0].sync_client() as client:
            for node in self.nodes[1:]:
                bus = node.store.further_lines[1].split()[1]
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        self._wait(lambda: all(self._known(node) == len(self.nodes) for node in self.nodes))
        for master, replica in zip(self.masters, self.replicas, strict=False):
            with replica.sync_client() as client:
                client.execute_command("CLUSTER", "REPLICATE", master.id)
        self._wait(self.is_well)

    def is_well(self) -> bool:
        """Whether every node says so, and every replica is in step."""
        for node in self.nodes:
            with node.sync_client() as client:
                if b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                    return False
                info = client.info("replication")
                if info["role"] == "slave" and info["master_link_status"] != "up":
                    return False
        return True

    def _known(self, node: ClusterServer) -> int:
        with node.sync_client() as client:
            view = client.execute_command("CLUSTER", "NODES")
            text = view.decode() if isinstance(view, bytes) else str(view)
            return len(view) if isinstance(view, dict) else text.count("connected")

    def _wait(self, condition: Any) -> None:
        deadline_s = time.monotonic() + CLUSTER_TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline_s, "the cluster did not come up"
            time.sleep(POLL_S)

    def wipe_live(self) -> None:
        """Remove all data and scripts from the running servers."""
        for node in self.nodes:
            with node.sync_client() as client:
                if client.info("replication")["role"] == "master":
                    client.flushall()
                client.script_flush()

    def kill(self) -> None:
        """End all of it."""
        for node in self.nodes:
            node.resume()
            node.kill()

    def owner(self, slot: int, asked: list[ClusterServer] | None = None) -> ClusterServer:
        """The master of a slot, as the first of these nodes sees it that runs."""
        for node in asked or self.nodes:
            if not node.is_running:
                continue
            with node.sync_client() as client:
                for line in client.execute_command("CLUSTER", "SLOTS"):
                    if line[0] <= slot <= line[1]:
                        return next(each for each in self.nodes if each.port == line[2][1])
        raise AssertionError(f"nobody has the slot {slot}")

    # Moving a slot, key by key, as redis-cli does it.

    async def begin_moving(self, slot: int, target: ClusterServer) -> ClusterServer:
        """Announce the move; the node that the slot comes from."""
        source = await asyncio.to_thread(self.owner, slot)
        await _ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        await _ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        return source

    async def move_keys(self, slot: int, target: ClusterServer, *, keys_max: int = 0) -> int:
        """Move so many keys (0: all), one at a time; how many were moved."""
        source = await asyncio.to_thread(self.owner, slot)
        moved = 0
        while not keys_max or moved < keys_max:
            keys = await _ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1)
            if not keys:
                return moved
            password = source.store.password
            await _ask(
                source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "AUTH", password, "KEYS", *keys
            )
            moved += 1
        return moved

    async def end_moving(self, slot: int, source: ClusterServer, target: ClusterServer) -> None:
        """The slot is the target's."""
        for node in (target, source, *[node for node in self.masters if node not in (source, target)]):
            if node.is_running:
                await _ask(node, "CLUSTER", "SETSLOT", slot, "NODE", target.id)

    async def move(self, slot: int, target: ClusterServer) -> None:
        """All of it."""
        source = await self.begin_moving(slot, target)
        await self.move_keys(slot, target)
        await self.end_moving(slot, source, target)


async def _ask(node: ClusterServer, *command: Any) -> Any:
    client = node.client()
    try:
        return await client.execute_command(*command)
    finally:
        await client.aclose()
