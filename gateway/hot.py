"""What the hot routes have in common: from our own server (gateway/protocol.py) they are asked without ASGI.

No middleware, no Request object: such a route looks at the headers once, has its body in one piece, and
answers once, at once or from the callback that brings Redis' reply. What is out of the ordinary comes through
ASGI, to the same `begin`.
"""

import asyncio
import time
from collections.abc import Coroutine
from functools import cache
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

from engine.errors import RushError
from gateway.errors import ClientGone, Headers, MethodNotAllowed, render, to_rush_error
from gateway.services import Gateway
from gateway.wire import Exchange, Head, read_body, send_json
from observability import tallies
from observability.tallies import CounterTally


class _Answered:
    """An exchange for ASGI: the answer is a future's result."""

    def __init__(self, head: Head, query: bytes) -> None:
        self.head = head
        self.query = query
        self.future: asyncio.Future[tuple[int, Headers, bytes]] = asyncio.get_running_loop().create_future()

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        if not self.future.done():
            self.future.set_result((status, headers, body))


class Told(NamedTuple):
    """A refusal, ready to be sent."""

    status: int
    headers: Headers
    body: bytes
    tallies: tuple[CounterTally, ...]


@cache
def _requests(method: str, path: str, status: int) -> CounterTally:
    return tallies.counter("http_requests_total", method=method, route=path, status=str(status))


class HotRoute:
    """A hot route, as an ASGI application and for the short way past ASGI."""

    method = "POST"
    takes_query = False
    """Whether the short way is open to a URL with a query."""
    also: frozenset[str] = frozenset()
    """Methods that are answered in the same way, through ASGI."""

    def __init__(self, gateway: Gateway, path: str) -> None:
        self._gateway = gateway
        self.path = path
        self.url = path.encode()
        self.verb = self.method.encode()
        self.bytes_max = gateway.settings.body_bytes_max
        self._tasks: set[asyncio.Task[None]] = set()
        self._duration = tallies.histogram("http_request_duration_seconds", method=self.method, route=path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        started_s = time.perf_counter()
        exchange = _Answered(Head(scope["headers"]), scope["query_string"])
        if scope["method"] != self.method and scope["method"] not in self.also:
            allowed = sorted({self.method, *self.also})
            self._refuse(exchange, started_s, MethodNotAllowed(allowed), "other")
        else:
            try:
                body = await read_body(exchange.head, receive, self.bytes_max)
            except ClientGone:
                return
            except Exception as error:
                self._refuse(exchange, started_s, error)
            else:
                self.begin(exchange, body)
        status, headers, reply = await exchange.future
        await send_json(send, exchange.head.request_id, status, reply, headers)

    def begin(self, exchange: Exchange, body: bytes) -> None:
        """Answer a request, now or later, by calling `exchange.answer` once; never raises."""
        raise NotImplementedError

    def _refuse(
        self, exchange: Exchange, started_s: float, error: Exception, method: str | None = None
    ) -> None:
        told = self._tell(to_rush_error(error, exchange.head.request_id), method)
        exchange.answer(told.status, told.headers, told.body)
        self._count(told, started_s)

    def _tell(self, error: RushError, method: str | None = None) -> Told:
        status, headers, body = render(error)
        counters = (_requests(method or self.method, self.path, status), *self._refusal_tallies(error))
        return Told(status, headers, body, counters)

    def _refusal_tallies(self, error: RushError) -> tuple[CounterTally, ...]:
        """What else a refusal counts as."""
        return ()

    def _count(self, told: Told, started_s: float) -> None:
        for tally in told.tallies:
            tally.count += 1
        self._duration.observe(time.perf_counter() - started_s)

    # What is rare and waits, in a task of its own.

    def _aside(self, exchange: Exchange, started_s: float, waiting: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await waiting
            except Exception as error:
                self._refuse(exchange, started_s, error)

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
