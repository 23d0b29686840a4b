"""The hot lines of a cluster: one to each master, and each call on the line of the node that owns its key.

Who owns what is asked again and again of a few nodes, and of all of them as soon as something is not as it
was believed to be. Nothing that a buyer waits for waits for that.

    MOVED       the node did nothing: the call is sent to the one it names, a bounded number of times
    ASK         the slot is being moved key by key. A call of one key follows. A script does not: it reads
                more keys of its cell than it is called with, and half of the cell is on either side
    TRYAGAIN, CLUSTERDOWN
                the node did nothing, and nobody else can now: StoreUnavailable
"""

import asyncio
import contextlib
import logging
import random
from typing import Any

from engine.errors import Overloaded, StoreUnavailable
from engine.hotline import HotLine, refuse
from engine.ids import CellId
from engine.redis_ask import ASK_ERRORS, ask
from engine.redis_link import Redirected, RedisLink, pack
from engine.redis_url import ClusterAddress, RedisAddress
from engine.slots import SLOTS, SlotMap, View, read_view, slot_of, slot_of_cell

LOOK_TIMEOUT_S = 1.0
LOOK_INTERVAL_S = 1.0
TROUBLED_INTERVAL_S = 0.2
"""While a node is away another one may take its place at any moment."""
LOOK_PAUSE_S = 0.02
"""However many calls were led elsewhere, so much is between two looks."""
ASKED_MAX = 3
"""Nodes that are asked as long as all is well."""
HOPS_MAX = 3
RETIRE_POLL_S = 0.02

log = logging.getLogger(__name__)
_ASKING = pack(("ASKING",))


class _Call(asyncio.Future[Any]):
    """A call that can be sent to another node."""

    packed: bytes
    is_script: bool
    hops: int

    def may_follow(self, error: Redirected) -> bool:
        """Whether it may be sent to where this error leads."""
        return self.hops < HOPS_MAX and not (error.is_ask and self.is_script)


class _NodeLine(HotLine):
    """The hot line to one master."""

    def __init__(self, lines: "ClusterLines", address: RedisAddress, **options: int) -> None:
        super().__init__(address, **options)
        self.address = address
        self._lines = lines

    def call(self, *args: str | bytes | int) -> asyncio.Future[Any]:
        """As `HotLine.call`; the reply may come from another node."""
        link = self._require_link()
        call = _Call(loop=asyncio.get_running_loop())
        call.packed = pack(args)
        call.is_script = args[0] == "EVALSHA"
        call.hops = 0
        link.enqueue(call, call.packed)
        return call

    def send_again(self, call: _Call, *, asking: bool) -> None:
        """Send a call that another node did nothing for; raises what `call` raises."""
        link = self._require_link()
        call.hops += 1
        if not asking:
            link.enqueue(call, call.packed)
            return
        # It holds for the one command behind it, and nothing may come between, not even a cancellation.
        link.flush()
        link.enqueue(asyncio.get_running_loop().create_future(), _ASKING)
        link.enqueue(call, call.packed)
        link.flush()

    def redirected(self, future: asyncio.Future[Any], error: Redirected) -> None:
        """Called by the link for MOVED and ASK."""
        self._lines.redirect(future, error)

    def link_lost(self, link: RedisLink, reason: str) -> None:
        """Called by the link when it ends."""
        super().link_lost(link, reason)
        self._lines.look_soon()


class ClusterMaster:
    """One master of a cluster, as long as it is one."""

    has_one_slot = False

    def __init__(self, slots: SlotMap, node: str, address: RedisAddress) -> None:
        self._slots = slots
        self.name = node
        self.address = address

    def __str__(self) -> str:
        return f"{self.address.host}:{self.address.port}"

    def owns(self, cell_id: CellId) -> bool:
        """Whether a cell lives there now."""
        return self._slots.owners[slot_of_cell(cell_id)] == self.name


class ClusterLines:
    """What `HotLine` is to one node; the options are of each of the lines."""

    def __init__(
        self, address: ClusterAddress, *, in_flight_max: int, timeout_ms: int, replicas_min: int = 0
    ) -> None:
        self._address = address
        self._options = {
            "in_flight_max": in_flight_max,
            "timeout_ms": timeout_ms,
            "replicas_min": replicas_min,
        }
        self._slots = SlotMap()
        self._lines: dict[str, _NodeLine] = {}
        self._line_of_slot: list[_NodeLine | None] = [None] * SLOTS
        self._look_again = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changes = 0

    @property
    def connected(self) -> bool:
        """Whether any call could be sent now."""
        return any(line.connected for line in self._lines.values())

    @property
    def in_flight(self) -> int:
        """Calls whose reply is due, on all lines."""
        return sum(line.in_flight for line in self._lines.values())

    @property
    def connections(self) -> int:
        """Another number says that some cell may be on another node."""
        return self._changes + sum(line.connections for line in self._lines.values())

    def masters(self) -> list[ClusterMaster]:
        """The masters that own slots, as far as is known."""
        return [ClusterMaster(self._slots, node, line.address) for node, line in self._lines.items()]

    async def start(self) -> None:
        """Find the nodes, connect, and stay connected until `close`. Returns after the first attempt."""
        if self._watching is None:
            await self._look(len(self._address.nodes))
            await asyncio.gather(*[line.start() for line in self._lines.values()])
            self._watching = asyncio.create_task(self._watch(), name="cluster")

    async def close(self) -> None:
        """Hang up everywhere."""
        watching, self._watching = self._watching, None
        tasks = [*self._tasks, *([watching] if watching else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        lines = list(self._lines.values())
        self._lines.clear()
        self._line_of_slot = [None] * SLOTS
        await asyncio.gather(*[line.close() for line in lines])

    def call(self, *args: str | bytes | int) -> asyncio.Future[Any]:
        """Send one command to the node of its first key: see `HotLine.call`."""
        # EVALSHA sha count key: for everything else that is hot the key comes first.
        key = args[3] if args[0] == "EVALSHA" else args[1]
        owner = self._line_of_slot[slot_of(key)]  # type: ignore[arg-type]
        if owner is None:
            raise StoreUnavailable
        return owner.call(*args)

    def call_all(self, *args: str | bytes | int) -> list[asyncio.Future[Any]]:
        """Send one command to every node that is connected: a reply each.

        One with too much in flight is left out; raises Overloaded where all have.
        """
        calls, problem = [], None
        for owner in self._lines.values():
            if not owner.connected:
                continue
            try:
                calls.append(owner.call(*args))
            except Overloaded as error:
                problem = error
        if problem is not None and not calls:
            raise problem
        return calls

    def flush(self) -> None:
        """Write what this tick has brought so far now."""
        for line in self._lines.values():
            line.flush()

    # Called by the lines.

    def look_soon(self) -> None:
        """Something is not as it was believed to be."""
        self._look_again.set()

    def redirect(self, future: asyncio.Future[Any], error: Redirected) -> None:
        """Send a call to where the node said, or fail it: nothing was done."""
        self.look_soon()
        if future.done():
            return
        target = self._line_at(error.host, error.port)
        if target is not None and isinstance(future, _Call) and future.may_follow(error):
            try:
                target.send_again(future, asking=error.is_ask)
            except (StoreUnavailable, Overloaded):
                pass
            else:
                return
        refuse(future, error)

    def _line_at(self, host: str, port: int) -> _NodeLine | None:
        for line in self._lines.values():
            if (line.address.host, line.address.port) == (host, port):
                return line
        return None

    # Who owns what.

    async def _watch(self) -> None:
        while True:
            is_well = bool(self._lines) and all(line.connected for line in self._lines.values())
            is_called = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S if is_well else TROUBLED_INTERVAL_S):
                    await self._look_again.wait()
                    is_called = True
            self._look_again.clear()
            await self._look(ASKED_MAX if is_well and not is_called else SLOTS)
            await asyncio.sleep(LOOK_PAUSE_S)

    async def _look(self, asked_max: int) -> None:
        """Ask so many nodes, any of them, and connect to masters that are new."""
        known = [line.address for line in self._lines.values()]
        addresses = list(dict.fromkeys([*known, *self._address.nodes]))
        asked = random.sample(addresses, min(asked_max, len(addresses)))
        answers = await asyncio.gather(*[self._ask(address) for address in asked])
        views = [view for view in answers if view is not None]
        news = [self._slots.take(view.claims) for view in views]
        if views and len(asked) == len(addresses):
            # A master that is away is still listed by the others.
            news.append(self._slots.forget_all_but(frozenset().union(*[view.nodes for view in views])))
        if any(news):
            self._reconnect()

    async def _ask(self, address: RedisAddress) -> View | None:
        try:
            text: bytes = await ask(address, ("CLUSTER", "NODES"), LOOK_TIMEOUT_S)
        except ASK_ERRORS as error:
            log.debug("%s does not say who owns what: %r", address, error)
            return None
        try:
            return read_view(text.decode(), address.host, by_name=address.tls is not None)
        except ValueError:
            log.exception("%s answers CLUSTER NODES with something else", address)
            return None

    def _reconnect(self) -> None:
        """Have a line to every master, and none to who is no master any more."""
        self._changes += 1
        masters = self._slots.masters()
        for node, line in list(self._lines.items()):
            if masters.get(node) != (line.address.host, line.address.port):
                del self._lines[node]
                self._changes += line.connections
                self._spawn(_retire(line, self._options["timeout_ms"] / 1000))
        for node, (host, port) in masters.items():
            if node not in self._lines:
                log.info("%s:%d is a master of the cluster", host, port)
                self._lines[node] = _NodeLine(self, self._address.at(host, port), **self._options)
                self._spawn(self._lines[node].start())
        self._line_of_slot = [self._lines.get(node or "") for node in self._slots.owners]

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _retire(line: _NodeLine, patience_s: float) -> None:
    """Close a line once what is in flight on it is answered, or late."""
    try:
        for _ in range(int(patience_s / RETIRE_POLL_S)):
            if not line.in_flight:
                break
            await asyncio.sleep(RETIRE_POLL_S)
    finally:
        await line.close()
