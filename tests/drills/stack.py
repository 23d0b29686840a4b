"""The installation that is drilled: real stores, gateways and workers, each a process of its own.

    async with open_stack(folder) as stack:
        stack.members["relay-1"].kill()      # gateway-1, recovery-2, … : see `members.Member`
        await stack.redis.restart_async(kill=True)      # a `tests.stores.RedisServer`; `stack.postgres` too
        stack.network("relay-1", "postgres").stall()    # the way between two: `tests.integration.proxy.Proxy`
        await stack.heal()                   # everything runs, every way is good

Every process reaches each store over a way of its own, and the clients each gateway; so any of them can be
broken alone. What the harness itself wants to know it asks the stores directly, over `stack.settings`.
Open one stack for many runs: `run.drill` sells a new event in each. `source` runs another copy of the code.
All processes end with the one that opened the stack, however it ends.
"""

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec

from engine.settings import Settings, project_root
from rush.children import get_status
from rush.migrate import migrate
from rush.store import free_port
from tests.drills.checker_postgres import watch_offsets
from tests.drills.members import Member
from tests.integration.proxy import Proxy
from tests.stores import PostgresServer, RedisServer

WORKERS = {"recovery": 2, "relay": 2, "expiry": 1, "publisher": 1, "auditor": 1, "admission": 2, "lottery": 1}
"""How many processes of each."""
GATEWAYS = 2
START_TIMEOUT_S = 60.0
POLL_S = 0.05
SECRET = "a-secret-for-drills-and-nothing-else-0123456789"
ALARM = "error   workers.auditor"
CLIENTS = "clients"
"""Where the ways to the gateways begin."""
SETTINGS = {
    # A 202 comes before the clients lose their patience.
    "confirm_wait_ms": 1_500,
    "bcrypt_cost": 4,
    "database_pool_max": 4,
    # What an earlier run sold leaves Redis soon: a lift looks at every cell.
    "cell_retention_s": 2,
    # The auditor looks in the middle of everything.
    "audit_interval_s": 2,
}


class Stack:
    """See the module. `make_redis` makes the servers, for a drill that needs them with something around."""

    def __init__(
        self,
        folder: Path,
        *,
        source: Path | None = None,
        settings: dict[str, object] | None = None,
        make_redis: Callable[[Path], RedisServer] = RedisServer,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Where Postgres must run as another user than we, it passes through.
        folder.chmod(0o711)
        self.folder = folder
        self.metrics = folder / "metrics"
        self.metrics.mkdir()
        self.postgres = PostgresServer(folder / "postgres")
        self.redis_servers = [make_redis(folder / "redis-1")]
        self.members: dict[str, Member] = {}
        self.redis_deaths = 0
        """How often a Redis that served went away, or lost what it had."""
        self.replication: Proxy | None = None
        """The way from the replica to its master, while there is one."""
        self._make_redis = make_redis
        self._master = 0
        self._redis_count = 1
        self._source = source or project_root()
        self._changes = SETTINGS | (settings or {})
        self._networks: dict[tuple[str, str], Proxy] = {}

    # Who is there.

    @property
    def redis(self) -> RedisServer:
        """The master."""
        return self.redis_servers[self._master]

    @property
    def settings(self) -> Settings:
        """Settings that lead to the stores directly, past the ways that are broken."""
        settings = Settings(
            env="development",
            jwt_secret=SECRET,
            redis_url=self.redis.url,
            database_url=self.postgres.url,
            data_dir=str(self.folder),
        )
        return msgspec.structs.replace(settings, **self._changes)

    @property
    def gateways(self) -> list[Member]:
        """The members that clients speak to."""
        return [member for name, member in self.members.items() if name.startswith("gateway")]

    def of_kind(self, kind: str) -> list[Member]:
        """The members of one kind: gateway, relay, …"""
        return [member for name, member in self.members.items() if name.rpartition("-")[0] == kind]

    def network(self, member: str, other: str) -> Proxy:
        """The way between a member and `redis`, `postgres` or the `clients`."""
        return self._networks[member, other]

    @property
    def networks(self) -> dict[tuple[str, str], Proxy]:
        """All of them."""
        return self._networks

    # Up and down.

    async def start(self) -> None:
        """Bring everything up, until the gateways are ready."""
        await self.redis.start_async()
        await self.postgres.start_async()
        await migrate(self.settings)
        await self._note_offsets()
        for number in range(1, GATEWAYS + 1):
            await self._add(f"gateway-{number}", ["serve", "--processes", "1"], port=free_port())
        for kind, count in WORKERS.items():
            for number in range(1, count + 1):
                await self._add(f"{kind}-{number}", ["work", kind])
        for member in self.gateways:
            way = self._networks[member.name, CLIENTS] = Proxy(member.port, target_host=self.gateway_host)
            await way.start()
        for member in self.members.values():
            member.start()
        await self.until_ready()

    async def _note_offsets(self) -> None:
        """For the checker, which wants to know how far every epoch came."""
        connection = await asyncpg.connect(self.postgres.url)
        await watch_offsets(connection)
        await connection.close()

    async def _add(self, name: str, arguments: list[str], *, port: int = 0) -> None:
        await self._open_ways(name)
        self.members[name] = Member(
            name,
            [*arguments, "--as", name],
            self.settings_of(name, port),
            self.folder,
            source=self._source,
            metrics=self.metrics,
            placed=self.placed,
        )

    async def _open_ways(self, name: str) -> None:
        for other, server in (("redis", self.redis), ("postgres", self.postgres)):
            way = self._networks[name, other] = Proxy(server.port)
            await way.start()

    @property
    def gateway_host(self) -> str:
        """Where the gateways are."""
        return "127.0.0.1"

    def placed(self, command: list[str]) -> list[str]:
        """The command line of a member, as it is started where it belongs."""
        return command

    def settings_of(self, name: str, port: int = 0) -> Settings:
        """The settings of a member: its own ways to the stores."""
        return msgspec.structs.replace(
            self.settings,
            port=port,
            redis_url=_with_port(self.redis.url, self._networks[name, "redis"].port),
            database_url=_with_port(self.postgres.url, self._networks[name, "postgres"].port),
        )

    async def until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until every gateway says that it is ready; AssertionError with what they printed last."""
        deadline_s = time.monotonic() + timeout_s
        for member in self.gateways:
            url = f"http://127.0.0.1:{self.network(member.name, CLIENTS).port}/readyz"
            while await asyncio.to_thread(get_status, url) != 200:
                assert time.monotonic() < deadline_s, f"{member.name} is not ready:\n{member.log[-3000:]}"
                await asyncio.sleep(POLL_S)

    async def heal(self) -> None:
        """Wake, start and connect everything that is not as it should be."""
        for server in (*self.redis_servers, self.postgres):
            server.resume()
        if not self.postgres.is_running:
            await self.postgres.start_async()
        if not self.redis.is_running:
            await self.redis.start_async()
        if len(self.redis_servers) > 1:
            # A fault that went wrong half-way left them.
            self.lead_to(self.redis)
            await self.drop_other_redis()
        for proxy in self._networks.values():
            proxy.heal()
        for member in self.members.values():
            member.resume()
            member.extra = {}
            member.start()

    def deserted(self) -> list[str]:
        """Members that should run and do not: nobody killed them."""
        return [
            f"{member.name} ended by itself (status {member.code}):\n{member.log[-2000:]}"
            for member in self.members.values()
            if member.is_wanted and not member.is_running
        ]

    def alarms(self) -> list[str]:
        """What the auditor found wrong so far: whatever is broken around it, it must find nothing."""
        return [
            line for member in self.of_kind("auditor") for line in member.log.splitlines() if ALARM in line
        ]

    async def close(self) -> None:
        """End everything, the stores last and in order: what they have is on the disk."""
        await asyncio.gather(*[member.stop() for member in self.members.values()])
        for proxy in [*self._networks.values(), *([self.replication] if self.replication else [])]:
            await proxy.close()
        for server in (*self.redis_servers, self.postgres):
            if server.is_running:
                await server.stop_async()

    # A second Redis.

    async def attach_replica(self) -> RedisServer:
        """A replica of the master, in step, behind a way that can be broken; it serves nobody."""
        self._redis_count += 1
        replica = self._make_redis(self.folder / f"redis-{self._redis_count}")
        replica.store.password = self.redis.store.password
        self.replication = Proxy(self.redis.port)
        await self.replication.start()
        replica.store.replica_of = self.replication.port
        self.redis_servers.append(replica)
        await replica.start_async()
        return replica

    def lead_to(self, server: RedisServer, *members: str) -> None:
        """From now on this server is the Redis of these members; of all when none is named."""
        names = members or tuple(self.members)
        for name in names:
            self._networks[name, "redis"].switch(server.port)
        if not members:
            self._master = self.redis_servers.index(server)

    async def drop_other_redis(self) -> None:
        """End every Redis but the master, and forget its data."""
        master = self.redis
        for server in self.redis_servers:
            if server is not master:
                server.kill()
                server.wipe()
        self.redis_servers, self._master = [master], 0
        if self.replication is not None:
            await self.replication.close()
            self.replication = None


def _with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    netloc = f"{parts.netloc.rpartition(':')[0]}:{port}"
    return urlunsplit(parts._replace(netloc=netloc))


@contextlib.asynccontextmanager
async def open_stack(folder: Path, *, kind: type[Stack] = Stack, **options: object) -> AsyncIterator[Stack]:
    """`async with open_stack(folder) as stack`; the options are those of the kind of stack."""
    stack = kind(folder, **options)  # type: ignore[arg-type]
    try:
        await stack.start()
        yield stack
    finally:
        await stack.close()


def remove(folder: Path) -> None:
    """Forget what a stack left."""
    shutil.rmtree(folder, ignore_errors=True)
