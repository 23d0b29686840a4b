"""The hot line: one multiplexed connection to Redis, the calls of a loop tick in one write.

It does what the hot path needs and nothing else: pipelining without a pipeline object, replies in
order, a bound on what is in flight, a deadline, and honesty about what it does not know. A call is
never repeated: a lost reply would run it twice. redis-py does everything that is not hot.

The line belongs to the event loop that it was started on, and to one process: it does not survive
a fork, so start it after forking.
"""

import asyncio
import logging
import random
import socket
from typing import Any

from engine.errors import Overloaded, StoreUnavailable
from engine.ids import CellId
from engine.redis_ask import login
from engine.redis_link import Redirected, RedisLink, RedisReplyError, pack
from engine.redis_url import ClusterAddress, RedisAddress, SentinelAddress, parse_redis_url
from engine.sentinel import MasterFinder

__all__ = ["HotLine", "RedisReplyError"]

CLIENT_NAME = "rush"
CONNECT_TIMEOUT_S = 2.0
"""For the whole of an attempt: name look-up, TCP, TLS, login."""
BACKOFF_FIRST_S = 0.02
BACKOFF_MAX_S = 0.5
STEADY_S = 1.0
"""A connection that lived this long was a good one: the next attempt follows its end at once."""
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 5, 2, 3
"""An idle line to a machine that vanished is noticed by the kernel."""

logger = logging.getLogger(__name__)


class TheMaster:
    """The one master there is."""

    name = "the only one"
    has_one_slot = True
    """One command may name the keys of several cells."""

    def __init__(self, address: RedisAddress | SentinelAddress) -> None:
        self.address = address

    def __str__(self) -> str:
        return str(self.address)

    def owns(self, cell_id: CellId) -> bool:
        """Whether a cell lives there: every one."""
        return True


class HotLine:
    """One connection to Redis for all hot calls of a process, renewed when it breaks.

    `where` is an address or the URL of one (see `engine.redis_url`), of a node or of sentinels; anything else
    raises ValueError. `in_flight_max` bounds the calls that wait for a reply, `timeout_ms` is the deadline
    of each. With `replicas_min` every batch is followed by one WAIT, and its calls succeed only once that
    many replicas have it.
    """

    def __init__(
        self,
        where: str | RedisAddress | SentinelAddress,
        *,
        in_flight_max: int,
        timeout_ms: int,
        replicas_min: int = 0,
    ) -> None:
        address = parse_redis_url(where) if isinstance(where, str) else where
        if isinstance(address, ClusterAddress):
            raise ValueError("a hot line leads to one node, not to a cluster")  # noqa: TRY004
        self._address = address
        self._finder = MasterFinder(address) if isinstance(address, SentinelAddress) else None
        self._in_flight_max = in_flight_max
        self._timeout_s = timeout_ms / 1000
        self._replicas_min = replicas_min
        self._link: RedisLink | None = None
        self._task: asyncio.Task[None] | None = None
        self._first_attempt = asyncio.Event()
        self.connections = 0
        """How often it was connected: after another time it may lead to another node."""

    @property
    def connected(self) -> bool:
        """Whether a call would be sent now."""
        return self._link is not None

    @property
    def in_flight(self) -> int:
        """Calls whose reply is due, those that nobody waits for any more included."""
        link = self._link
        return len(link.pending) + len(link.fresh) if link is not None else 0

    async def start(self) -> None:
        """Connect, and stay connected until `close`. Returns after the first attempt, good or not."""
        if self._task is None:
            self._first_attempt.clear()
            self._task = asyncio.create_task(self._stay_connected(), name="hot line")
        await self._first_attempt.wait()

    async def close(self) -> None:
        """Hang up. What was in flight fails: unknown where it was written, else not done."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        link, self._link = self._link, None
        if link is not None:
            link.drop("the line was closed")
            await link.lost
        await asyncio.wait((task,))
        self._first_attempt.set()

    def call(self, *args: str | bytes | int) -> asyncio.Future[Any]:
        """Send one command; the future is its reply (bytes, int, list or None).

        Raises StoreUnavailable when not connected and Overloaded when too much is in flight. The
        future fails with OutcomeUnknown when the command was written and no reply came (in time),
        StoreUnavailable when it was not written or Redis refused it untouched, Fenced on NOSCRIPT,
        and RedisReplyError on any other error reply. Cancelled before it is written, the command
        is not sent; later, its reply is dropped.
        """
        return self._require_link().submit(pack(args))

    def _require_link(self) -> RedisLink:
        link = self._link
        if link is None:
            raise StoreUnavailable
        if link.refusing or len(link.pending) + len(link.fresh) >= self._in_flight_max:
            raise Overloaded
        return link

    def call_all(self, *args: str | bytes | int) -> list[asyncio.Future[Any]]:
        """Send one command to every node that is connected: a reply each."""
        return [self.call(*args)] if self.connected else []

    def masters(self) -> list[TheMaster]:
        """The one node that this line leads to."""
        return [TheMaster(self._address)]

    def flush(self) -> None:
        """Write what this tick has brought so far now, without waiting for the tick's end.

        With replicas it does wait: each batch costs a round trip to them, so there is one a tick.
        """
        if self._link is not None and not self._replicas_min:
            self._link.flush()

    def link_lost(self, link: RedisLink, reason: str) -> None:
        """Called by the link when it ends."""
        if self._link is link:
            self._link = None
            logger.warning("the hot line to %s is down: %s", self._address, reason)

    def redirected(self, future: asyncio.Future[Any], error: Redirected) -> None:
        """Called by the link where another node has the key."""
        logger.warning("%s is a node of a cluster: the URL must begin with redis+cluster://", self._address)
        refuse(future, error)

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started_at = loop.time()
            try:
                link = await self._open(loop)
            # Whatever it was: a line that gave up would mean 503 for ever.
            except Exception as error:
                level = logging.DEBUG if failures else logging.WARNING
                logger.log(level, "no hot line to %s: %r", self._address, error)
                failures += 1
                self._first_attempt.set()
            else:
                self._first_attempt.set()
                await asyncio.shield(link.lost)
                steady = loop.time() - started_at >= STEADY_S
                failures = 0 if steady else failures + 1
            if failures:
                ceiling_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(failures, 16))
                await asyncio.sleep(ceiling_s * random.uniform(0.5, 1))  # noqa: S311

    async def _open(self, loop: asyncio.AbstractEventLoop) -> RedisLink:
        """Connect and log in; publishes the link, or raises what went wrong and leaves nothing open."""
        link = RedisLink(self, loop, self._timeout_s)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                address = await self._find_address()
                if address.path is not None:
                    await loop.create_unix_connection(lambda: link, address.path)
                else:
                    server_hostname = address.host if address.tls else None
                    transport, _ = await loop.create_connection(
                        lambda: link,
                        address.host,
                        address.port,
                        ssl=address.tls,
                        server_hostname=server_hostname,
                    )
                    _keep_alive(transport.get_extra_info("socket"))
                await asyncio.gather(*[link.submit(packed) for packed in _greeting(address)])
                if self._finder is not None:
                    await _require_master(link, address)
        except BaseException:
            link.drop("it was not opened")
            raise
        if link.ended:
            # It was cut between its last reply and the turn of this task.
            raise ConnectionResetError("cut right after the greeting")
        if self._replicas_min:
            link.require_replicas(self._replicas_min)
        self._link = link
        self.connections += 1
        logger.info("the hot line to %s is up", address)
        return link

    async def _find_address(self) -> RedisAddress:
        if self._finder is not None:
            return await self._finder.find()
        assert isinstance(self._address, RedisAddress)
        return self._address


def refuse(future: asyncio.Future[Any], error: Redirected) -> None:
    """Fail a call that no node has done anything for."""
    if future.done():
        return
    refusal = StoreUnavailable()
    refusal.add_note(str(error))
    future.set_exception(refusal)
    # Its caller may have gone for good; asyncio must not complain about that.
    future.exception()


def _greeting(address: RedisAddress) -> list[bytes]:
    # A server that still loads its data answers all of them but the last.
    commands = [*login(address), ("CLIENT", "SETNAME", CLIENT_NAME), ("PING",)]
    return [pack(command) for command in commands]


async def _require_master(link: RedisLink, address: RedisAddress) -> None:
    """Raise ConnectionRefusedError for a replica: sentinels may not know yet what the servers are."""
    role = await link.submit(pack(("ROLE",)))
    if role[0] != b"master":
        raise ConnectionRefusedError(f"the sentinels lead to {address}, which is no master")


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        if hasattr(socket, option):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
