"""Server-sent events (WHATWG HTML, 9.2): people who watch how they stand in a queue.

However many watch an event, Redis is looked at once a second for all of them. Nobody is told more often than
a poll would be worth, unless what they wait for happens. A client that does not read is dropped after a few
seconds: nothing is kept for it beyond a small buffer.
"""

import asyncio
import contextlib
import random
import time

from starlette.types import Message, Receive, Scope, Send

from engine.errors import NotFound, Overloaded, RushError
from engine.failpoints import failpoint
from engine.waiting.rooms import WaitingRooms
from engine.waiting.state import QueueState
from gateway.answers import QueueStateAnswer, encoder
from gateway.errors import render
from gateway.tickets import ShownTicket
from gateway.wire import STREAM_HEADERS
from observability import metrics

TRANSPORT = "rush.transport"
"""The extension of the ASGI scope with the connection's transport: gateway/protocol.py puts it there."""
HEARTBEAT_S = 15.0
SEND_TIMEOUT_S = 5.0
BUFFER_BYTES = 16 * 1024
"""What waits in this process to be sent to one client, at most."""
RETRY_MIN_MS, RETRY_MAX_MS = 2_000, 6_000
"""When to come back after a stream ended: not all at the same moment."""
HEARTBEAT = b": still here\n\n"


class _Stalled(Exception):
    """The client does not read."""


def event_id(epoch: int, state: QueueState) -> bytes:
    """What an event is known by: the same as long as a person stands the same."""
    ahead = "-" if state.ahead is None else state.ahead
    return f"{epoch}.{state.status}.{state.place or 0}.{ahead}".encode()


class _Watcher:
    """One who watches."""

    def __init__(self, rooms: WaitingRooms, shown: ShownTicket) -> None:
        self.wake = asyncio.Event()
        self.is_gone = False
        self._rooms = rooms
        self._ticket = shown.ticket
        self._due_s = 0.0
        self._seen: object = None

    def told(self, state: QueueState | None) -> None:
        """The next one is due when a poll would be, or as soon as what is looked at here changes."""
        wait_ms = 1_000 if state is None else state.poll_after_ms
        self._due_s = time.monotonic() + wait_ms / 1000
        self._seen = self._look()

    def notify(self) -> None:
        """The queue has been looked at."""
        if time.monotonic() >= self._due_s or self._look() != self._seen:
            self.wake.set()

    def _look(self) -> object:
        view = self._rooms.views.known(self._ticket.cell_id)
        if view is None:
            return None
        place = view.place_of(self._ticket.number)
        is_served = place is not None and place <= view.serving
        return view.epoch, place, is_served, view.is_sold_out, view.is_paused, view.sale_status


class QueueStreams:
    """All streams of this process."""

    def __init__(self, rooms: WaitingRooms, streams_max: int) -> None:
        self._rooms = rooms
        self._streams_max = streams_max
        self._watchers: set[_Watcher] = set()
        self._is_ending = False
        self._dropped = metrics.counter("queue_streams_dropped_total")

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._watchers)

    def end(self) -> None:
        """End them all, and begin no more: the process stops. Clients come back to another one."""
        if self._is_ending:
            # Every connection of the process says so once.
            return
        self._is_ending = True
        for watcher in self._watchers:
            watcher.wake.set()

    def check_room(self) -> None:
        """Raise Overloaded where there are as many as this process takes."""
        if self._is_ending or len(self._watchers) >= self._streams_max:
            raise Overloaded("Too many watch at this gateway: poll instead, or come again in a moment")

    async def serve(
        self,
        shown: ShownTicket,
        last_event_id: bytes | None,
        scope: Scope,
        receive: Receive,
        send: Send,
        request_id: bytes,
    ) -> None:
        """Send a stream until the client goes, nothing can change any more, or the process stops."""
        transport = scope.get("extensions", {}).get(TRANSPORT, {}).get("transport")
        if transport is not None:
            transport.set_write_buffer_limits(high=BUFFER_BYTES)
        watcher = _Watcher(self._rooms, shown)
        self._watchers.add(watcher)
        hanging_up = asyncio.create_task(_until_gone(receive, watcher))
        try:
            with self._rooms.views.listening(shown.ticket.cell_id, watcher.notify):
                headers = [(b"x-request-id", request_id), *STREAM_HEADERS]
                await _deliver(send, {"type": "http.response.start", "status": 200, "headers": headers})
                await self._tell(watcher, shown, last_event_id, send)
            if not watcher.is_gone:
                await _deliver(send, {"type": "http.response.body", "body": b""})
        except _Stalled:
            self._dropped.inc()
            if transport is not None:
                transport.abort()
        finally:
            self._watchers.discard(watcher)
            hanging_up.cancel()

    async def _tell(self, watcher: _Watcher, shown: ShownTicket, last: bytes | None, send: Send) -> None:
        await _deliver_part(send, b"retry: %d\n\n" % _retry_ms())
        while not self._is_ending and not watcher.is_gone:
            watcher.wake.clear()
            state = None
            try:
                state = await self._rooms.state_of(shown.ticket, shown.text)
            except NotFound as error:
                await _deliver_part(send, b"event: gone\ndata: %b\n\n" % render(error)[2])
                return
            except RushError:
                # Redis is away or fenced: whoever watches learns of it when there is something to say again.
                pass
            watcher.told(state)
            if state is not None:
                last = await self._tell_state(state, shown, last, send)
                if state.status == "closed":
                    return
            await self._wait(watcher, send)

    async def _tell_state(
        self, state: QueueState, shown: ShownTicket, last: bytes | None, send: Send
    ) -> bytes:
        view = self._rooms.views.known(shown.ticket.cell_id)
        this = event_id(view.epoch if view is not None else 0, state)
        if this != last:
            data = encoder.encode(QueueStateAnswer.of(state))
            await _deliver_part(send, b"id: %b\ndata: %b\n\n" % (this, data))
        return this

    async def _wait(self, watcher: _Watcher, send: Send) -> None:
        while not self._is_ending and not watcher.wake.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await watcher.wake.wait()
                    return
            await _deliver_part(send, HEARTBEAT)


def _retry_ms() -> int:
    return random.randint(RETRY_MIN_MS, RETRY_MAX_MS)  # noqa: S311 - it spreads, it hides nothing


async def _until_gone(receive: Receive, watcher: _Watcher) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    watcher.is_gone = True
    watcher.wake.set()


async def _deliver_part(send: Send, part: bytes) -> None:
    await _deliver(send, {"type": "http.response.body", "body": part, "more_body": True})


async def _deliver(send: Send, message: Message) -> None:
    """Send, but not for ever: what a client does not read is not waited for."""
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await send(message)
            failpoint("streams.after_part")
    except TimeoutError:
        raise _Stalled from None
