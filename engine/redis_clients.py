"""Clients of redis-py, for what is not hot. None repeats a command on its own: a lost reply would run it
twice."""

import ssl
from collections.abc import Iterable, Mapping
from typing import Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine.redis_url import Address, ClusterAddress, RedisAddress, SentinelAddress
from engine.sentinel import MasterFinder

CONNECT_TIMEOUT_S = 3
SOCKET_TIMEOUT_S = 5
HEALTH_CHECK_INTERVAL_S = 5
RESP_VERSION = 2
"""The replies of redis-py have another shape with each version of the protocol."""
REPLICA_TIMEOUT_S = 1

Client = redis.asyncio.Redis

REDIS_ERRORS = (redis.exceptions.RedisError, redis.exceptions.RedisClusterException)
"""What a call raises while Redis is away, or refuses. To redis-py the second, a cluster of which no node
answers, is none of the first."""

LEAVES_THE_NODE = (
    redis.exceptions.AskError,
    redis.exceptions.MovedError,
    redis.exceptions.TryAgainError,
)
"""What a node of a cluster says of a key that is on its way from it, or gone. It did nothing."""


class _HonestWrites:
    """A connection that was reset is an OSError for redis-py also where uvloop has another word for it."""

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        try:
            await super()._send_packed_command(command)  # type: ignore[misc]
        except RuntimeError as error:
            raise ConnectionResetError(str(error)) from error


class _UnixConnection(_HonestWrites, redis.asyncio.UnixDomainSocketConnection):
    """A connection by a socket's path."""


class _Connection(_HonestWrites, redis.asyncio.Connection):
    """A TCP connection by our own TLS context, to where the sentinels say if there are any."""

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, finder: MasterFinder | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._tls = tls
        self._finder = finder

    async def _connect(self) -> None:
        if self._finder is not None:
            master = await self._finder.find()
            self.host, self.port = master.host, master.port
        await super()._connect()  # type: ignore[no-untyped-call]

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = super()._connection_arguments()
        return arguments if self._tls is None else {**arguments, "ssl": self._tls}


def open_client(address: Address, *, single: bool = False) -> Client:
    """A client of one node, of the master that sentinels know, or of a whole cluster.

    `single` keeps to one connection, which breaks visibly instead of being replaced.
    """
    if isinstance(address, ClusterAddress):
        if single:
            raise ValueError("one connection leads to one node, not to a cluster")
        return _cluster_client(address)
    if isinstance(address, SentinelAddress):
        return _client(address.master, single=single, finder=MasterFinder(address))
    return _client(address, single=single)


def open_replica(address: RedisAddress) -> Client:
    """A client for a replica: it waits less patiently."""
    return _client(address, timeout_s=REPLICA_TIMEOUT_S, connect_timeout_s=REPLICA_TIMEOUT_S)


def _client(
    address: RedisAddress,
    *,
    single: bool = False,
    finder: MasterFinder | None = None,
    timeout_s: float = SOCKET_TIMEOUT_S,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
) -> Client:
    where: dict[str, Any] = {
        "connection_class": _UnixConnection,
        "path": address.path,
    }
    if address.path is None:
        where = {
            "connection_class": _Connection,
            "host": address.host,
            "port": address.port,
            "tls": address.tls,
            "finder": finder,
            "socket_connect_timeout": connect_timeout_s,
        }
    pool = redis.asyncio.ConnectionPool(
        **where,
        db=address.database,
        username=address.username,
        password=address.password,
        socket_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=RESP_VERSION,
        health_check_interval=HEALTH_CHECK_INTERVAL_S,
    )
    if not single:
        return Client.from_pool(pool)
    client = Client(connection_pool=pool, single_connection_client=True)
    client.auto_close_connection_pool = True
    return client


def _cluster_client(address: ClusterAddress) -> Client:
    first = address.nodes[0]
    tls: dict[str, Any] = {}
    if first.tls is not None:
        tls = {"ssl": True, **address.tls_options, "ssl_check_hostname": first.tls.check_hostname}
    client: Any = RedisCluster(
        startup_nodes=[ClusterNode(node.host, node.port) for node in address.nodes],
        username=first.username,
        password=first.password,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        protocol=RESP_VERSION,
        # Of the other nodes' cells there is something to say while one is away.
        require_full_coverage=False,
        **tls,
    )
    return client  # type: ignore[no-any-return]
