"""One connection to Redis: commands out in one write a tick, replies matched in order.

This is the lower half of the hot line (`engine.hotline`), which renews it when it breaks. Nothing in
here waits: everything happens in callbacks of the event loop, so nothing can interleave.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from operator import methodcaller
from typing import Any, Protocol, cast

import hiredis

from engine.errors import Fenced, OutcomeUnknown, RushError, StoreUnavailable
from engine.failpoints import failpoint

WRITE_BUFFER_BYTES_MAX = 1 << 20
"""With more than this waiting for the kernel, new calls are refused."""
SILENCE_TIMEOUTS_MAX = 2
"""A connection that owes replies and brings nothing for this many time-outs is dropped."""
DEADLINE_GRAIN_S = 0.005
"""Deadlines are looked at no more often than this."""
LATE_TIMER_S = 0.1
"""A timer this late says that the process was stopped, not that Redis was slow."""

pack = cast(Callable[[tuple[str | bytes | int, ...]], bytes], hiredis.pack_command)
"""A command as bytes on the wire; raises TypeError for an argument of another type."""

_NOT_YET = object()
_is_cancelled = methodcaller("cancelled")

_NOTHING_WAS_DONE = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN"}
)
TORN_CELL = "access a non local key"
"""What a script is told whose cell is being moved to another node, key by key. Ours read all that they need
before they write, so nothing was done."""


class RedisReplyError(Exception):
    """An error reply that says more about the command than about the server."""


class Redirected(RedisReplyError):
    """A node of a cluster says who has the key: `MOVED slot host:port` or `ASK slot host:port`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        word, _, rest = text.partition(" ")
        self.is_ask = word == "ASK"
        host, _, port = rest.partition(" ")[2].rpartition(":")
        self.host, self.port = host, int(port)


class Owner(Protocol):
    """Who is told that a connection may not be used any more. It is told once."""

    def link_lost(self, link: "RedisLink", reason: str) -> None:
        """Take no more calls for this link; what was in flight has failed or will be answered."""

    def redirected(self, future: asyncio.Future[Any], error: Redirected) -> None:
        """Settle a call for which this node did nothing, because another one has its key."""


def reply_error(text: str) -> Exception:
    """The exception for an error reply such as `NOSCRIPT No matching script`.

    Fenced for NOSCRIPT; StoreUnavailable where Redis refused before it did anything; Redirected where
    another node has the key; RedisReplyError for the rest. Redis' own words are a note on the first two:
    they are for the log and not for a client.
    """
    word = text.partition(" ")[0]
    error: RushError
    if word == "NOSCRIPT":
        error = Fenced()
    elif word in _NOTHING_WAS_DONE or TORN_CELL in text:
        error = StoreUnavailable()
    elif word in ("MOVED", "ASK"):
        return Redirected(text)
    else:
        return RedisReplyError(text)
    error.add_note(text)
    return error


def _fail(futures: Iterable[asyncio.Future[Any] | None], make_error: Callable[[], Exception]) -> None:
    for future in futures:
        if future is not None and not future.done():
            future.set_exception(make_error())
            # A caller may have gone for good; asyncio must not complain about that.
            future.exception()


class RedisLink(asyncio.Protocol):
    """One connection, from its TCP handshake to its end.

    `pending` holds, in the order of the commands on the wire, the future of each one whose reply is
    due; a cancelled or timed-out future keeps its place. None stands for the WAIT that closes a batch.
    """

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._owner = owner
        self._loop = loop
        self._timeout_s = timeout_s
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(
            protocolError=hiredis.ProtocolError, replyError=reply_error, notEnoughData=_NOT_YET
        )
        self.fresh: list[asyncio.Future[Any]] = []
        self.packed: list[bytes] = []
        self.pending: deque[asyncio.Future[Any] | None] = deque()
        self.refusing = False
        self.lost: asyncio.Future[None] = loop.create_future()
        """Done when the transport is gone."""
        self._ended = False
        self._retiring = False
        # A batch's deadline and the number of its last command, counted from the first of the link.
        self._deadlines: deque[tuple[float, int]] = deque()
        self._sent = 0
        self._answered = 0
        self._heard_at = 0.0
        self._waiting_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._grace_given = False
        self._replicas_min = 0
        self._wait: bytes = b""
        # Replies of the batch at the head, until its WAIT is answered.
        self._held: list[tuple[asyncio.Future[Any], Any]] = []

    def require_replicas(self, replicas_min: int) -> None:
        """From now on close every batch with a WAIT for that many replicas."""
        self._replicas_min = replicas_min
        # It ends before the calls it belongs to time out, so that a missing replica reads as such.
        wait_ms = max(1, int(self._timeout_s * 500))
        self._wait = pack(("WAIT", replicas_min, wait_ms))

    def submit(self, packed: bytes) -> asyncio.Future[Any]:
        """Send a packed command with all others of this loop tick; the future is its reply."""
        future = self._loop.create_future()
        self.enqueue(future, packed)
        return future

    def enqueue(self, future: asyncio.Future[Any], packed: bytes) -> None:
        """The same for a future that there is already."""
        if not self.fresh:
            self._loop.call_soon(self.flush)
        self.fresh.append(future)
        self.packed.append(packed)

    def flush(self) -> None:
        """Write what was submitted since the last flush; what was cancelled meanwhile is left out."""
        fresh, packed = self.fresh, self.packed
        if not fresh:
            return
        transport = self._transport
        if transport is None or transport.is_closing():
            self.drop("it is closing")
            return
        self.fresh, self.packed = [], []
        if any(map(_is_cancelled, fresh)):
            kept = [pair for pair in zip(fresh, packed, strict=True) if not pair[0].cancelled()]
            if not kept:
                self._drop_if_retired()
                return
            fresh, packed = [future for future, _ in kept], [data for _, data in kept]
        pending = self.pending
        now = self._loop.time()
        if not pending:
            self._waiting_since = now
        pending.extend(fresh)
        self._sent += len(fresh)
        if self._replicas_min:
            packed.append(self._wait)
            pending.append(None)
            self._sent += 1
        deadlines = self._deadlines
        while deadlines and deadlines[0][1] <= self._answered:
            deadlines.popleft()
        deadlines.append((now + self._timeout_s, self._sent))
        if self._timer is None:
            self._arm(now + self._timeout_s)
        transport.write(b"".join(packed))
        failpoint("redis_link.after_write")

    # Callbacks of the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)

    def pause_writing(self) -> None:
        """Redis or the network is slower than our callers."""
        self.refusing = True

    def resume_writing(self) -> None:
        """The write buffer has drained."""
        self.refusing = False

    def data_received(self, data: bytes) -> None:
        """Deliver every whole reply in order; at the first byte that is not RESP, drop everything."""
        self._heard_at = self._loop.time()
        pending = self.pending
        replicated = self._replicas_min > 0
        due = len(pending)
        try:
            self._reader.feed(data)
            gets = self._reader.gets
            while (reply := gets()) is not _NOT_YET:
                if not pending:
                    self.drop("a reply came that nobody had asked for")
                    return
                future = pending.popleft()
                if future is None:
                    self._settle(reply)
                elif isinstance(reply, Exception):
                    self._refused(future, reply)
                elif replicated:
                    self._held.append((future, reply))
                elif not future.done():
                    future.set_result(reply)
        except hiredis.ProtocolError as error:
            self.drop(f"its replies are garbled: {error}")
            return
        self._answered += due - len(pending)
        self._drop_if_retired()

    def eof_received(self) -> None:
        """Redis hung up."""
        # Without this the transport would first try to send what is left, perhaps for ever.
        self.drop("Redis closed it")

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self.drop(f"it broke: {exc!r}" if exc else "it was closed")
        if not self.lost.done():
            self.lost.set_result(None)

    # Endings.

    @property
    def ended(self) -> bool:
        """Whether a call would fail for certain."""
        return self._ended

    def drop(self, reason: str) -> None:
        """End the connection now: what was written is unknown, what was not has not been done."""
        fresh, self.fresh, self.packed = self.fresh, [], []
        _fail(fresh, StoreUnavailable)
        if self._ended:
            return
        self._ended = True
        if not self._retiring:
            self._owner.link_lost(self, reason)
        if self._timer is not None:
            self._timer.cancel()
        _fail((future for future, _ in self._held), OutcomeUnknown)
        _fail(self.pending, OutcomeUnknown)
        self._held.clear()
        self.pending.clear()
        if self._transport is not None:
            self._transport.abort()

    def _retire(self) -> None:
        # The server was demoted; the name in the URL may already lead to the new master. What is in
        # flight is still answered in its place.
        if not self._retiring and not self._ended:
            self._retiring = True
            self._owner.link_lost(self, "Redis had become a read-only replica")

    def _drop_if_retired(self) -> None:
        if self._retiring and not self.pending and not self.fresh:
            self.drop("all is answered")

    def _refused(self, future: asyncio.Future[Any], error: Exception) -> None:
        if isinstance(error, Redirected):
            self._owner.redirected(future, error)
            return
        _fail((future,), lambda: error)
        if isinstance(error, StoreUnavailable) and error.__notes__[0].startswith("READONLY"):
            self._retire()

    def _settle(self, replicas: Any) -> None:
        """Resolve the batch whose WAIT was answered."""
        held, self._held = self._held, []
        if isinstance(replicas, int) and replicas >= self._replicas_min:
            for future, reply in held:
                if not future.done():
                    future.set_result(reply)
        else:
            _fail((future for future, _ in held), OutcomeUnknown)

    # Deadlines.

    def _look_at_deadlines(self) -> None:
        now = self._loop.time()
        if now - self._timer_at > LATE_TIMER_S and not self._grace_given:
            # The process slept. The replies may lie in the socket: read them first.
            self._grace_given = True
            self._arm(now)
            return
        self._grace_given = False
        self._timer = None
        deadlines = self._deadlines
        while deadlines and (deadlines[0][0] <= now or deadlines[0][1] <= self._answered):
            _, last = deadlines.popleft()
            if last > self._answered:
                _fail((future for future, _ in self._held), OutcomeUnknown)
                _fail(islice(self.pending, last - self._answered), OutcomeUnknown)
        if not self.pending:
            return
        silent_until = max(self._heard_at, self._waiting_since) + SILENCE_TIMEOUTS_MAX * self._timeout_s
        if silent_until <= now:
            self.drop(f"no reply came for {SILENCE_TIMEOUTS_MAX * self._timeout_s:.1f} s")
            return
        self._arm(min(deadlines[0][0], silent_until) if deadlines else silent_until)

    def _arm(self, at: float) -> None:
        self._timer_at = max(at, self._loop.time() + DEADLINE_GRAIN_S)
        self._timer = self._loop.call_at(self._timer_at, self._look_at_deadlines)
