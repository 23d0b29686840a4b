"""How requests come in from a connection and answers go out: uvicorn's protocol, and a short way past it.

A few routes, the hot ones, do not need what ASGI is for. Their requests have a small body that is announced,
or none, and the answer is one piece; so a whole request goes to the endpoint from the parser's callback and
the answer leaves in one write: no task, no scope, no events, no second system call. Whatever is out of the
ordinary (a body in chunks or too long, `Expect`, HTTP/1.0, an upgrade, a request behind one that is still
being answered, a client that does not read) takes uvicorn's own way to the same endpoint as an ASGI
application.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine.errors import ValidationFailed
from engine.failpoints import failpoint
from gateway.errors import Headers, render
from gateway.streams import TRANSPORT
from gateway.wire import Exchange, Head, http_answer, new_request_id

LENGTH_DIGITS_MAX = 9


class HotEndpoint(Protocol):
    """What an application offers in `hot`, by its URL, to be asked without ASGI."""

    verb: bytes
    """Its method."""
    bytes_max: int
    takes_query: bool

    def begin(self, exchange: Exchange, body: bytes) -> None:
        """Answer a request, now or later, by calling `exchange.answer` once; never raises."""


class _NobodyWaits:
    def set(self) -> None:
        pass


class _HotCycle:
    """A hot request on its way. uvicorn knows it as the cycle that its connection is in."""

    __slots__ = (
        "body",
        "disconnected",
        "endpoint",
        "head",
        "keep_alive",
        "protocol",
        "query",
        "response_complete",
    )

    message_event = _NobodyWaits()

    def __init__(self, protocol: "GatewayProtocol", endpoint: HotEndpoint, head: Head, query: bytes) -> None:
        self.protocol = protocol
        self.endpoint = endpoint
        self.head = head
        self.query = query
        self.body: bytes | bytearray = b""
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Write the answer, and let the connection go on to its next request."""
        reply = http_answer(status, self.head.request_id, headers, body, closes=not self.keep_alive)
        if self.response_complete:
            return
        self.response_complete = True
        protocol = self.protocol
        transport = protocol.transport
        if not transport.is_closing():
            transport.write(reply)
            failpoint("protocol.after_answer")
            if not self.keep_alive:
                transport.close()
        protocol.on_response_complete()


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the short way, a cheaper keep-alive timer, and the contract's own 400."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hot: Mapping[bytes, HotEndpoint] = getattr(self.app, "hot", {})
        self._end_streams: Callable[[], None] | None = getattr(self.app, "end_streams", None)
        self._hot_cycle: _HotCycle | None = None
        self._resting_since_s: float | None = None

    # Requests.

    def data_received(self, data: bytes) -> None:
        """Read on; the parser calls what stands below."""
        self._resting_since_s = None
        try:
            self.parser.feed_data(data)
        except HttpParserError:
            self.logger.warning("what a client sent is not HTTP")
            self.send_400_response("")
        except HttpParserUpgrade:
            # Nobody here speaks anything else: the request was answered as the HTTP that it also is.
            pass

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self.headers.append((name.lower(), value))

    def on_message_begin(self) -> None:
        """Prepare for a request; what only ASGI needs is made when it is known that ASGI is needed."""
        self.url = b""
        self.headers = []
        self._resting_since_s = None

    def on_headers_complete(self) -> None:
        """Choose the way of a request."""
        query = b""
        endpoint = self._hot.get(self.url)
        if endpoint is None:
            path, _, query = self.url.partition(b"?")
            endpoint = self._hot.get(path)
        if endpoint is not None and (head := self._hot_head(endpoint, query)) is not None:
            self.cycle = self._hot_cycle = _HotCycle(self, endpoint, head, query)  # type: ignore[assignment]
            return
        self._hot_cycle = None
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url, self.headers = url, headers
        self.scope["headers"] = headers
        # Whoever sends a stream hangs up on a client that does not read it.
        self.scope["extensions"] = {TRANSPORT: {"transport": self.transport}}
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        super().on_headers_complete()

    def _hot_head(self, endpoint: HotEndpoint, query: bytes) -> Head | None:
        """The head of a request that may take the short way, or None."""
        parser = self.parser
        is_plain = (
            parser.get_method() == endpoint.verb
            and (not query or endpoint.takes_query)
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
        )
        if not is_plain:
            return None
        head = Head(self.headers)
        length = head.content_length
        if length is None:
            # A GET has no body, unless it says that one comes in chunks.
            if endpoint.verb == b"POST" or head.is_chunked:
                return None
        elif len(length) > LENGTH_DIGITS_MAX or int(length) > endpoint.bytes_max:
            return None
        return None if head.expects else head

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        cycle = self._hot_cycle
        if cycle is None:
            super().on_body(body)
        elif not cycle.body:
            cycle.body = body
        else:
            # Many small parts must not be copied once for each of them.
            if isinstance(cycle.body, bytes):
                cycle.body = bytearray(cycle.body)
            cycle.body += body

    def on_message_complete(self) -> None:
        """A request is there."""
        cycle = self._hot_cycle
        if cycle is None:
            super().on_message_complete()
        else:
            self._hot_cycle = None
            cycle.endpoint.begin(cycle, bytes(cycle.body))

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that the parser does not take, and close."""
        status, headers, body = render(ValidationFailed("request", "is not HTTP/1.1"))
        self.transport.write(http_answer(status, new_request_id(), headers, body, closes=True))
        failpoint("protocol.after_refusal")
        self.transport.close()

    # Keep-alive: one timer for a connection that looks now and then, instead of a new one for each answer.

    def on_response_complete(self) -> None:
        """Begin the next request that is waiting, or rest."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._resting_since_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again_in(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        self._resting_since_s = None

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has rested for the time that is allowed; else look again later."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing() or self._resting_since_s is None:
            return
        left_s = self._resting_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._look_again_in(left_s)
        else:
            self.transport.close()

    def _look_again_in(self, delay_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(delay_s, self.timeout_keep_alive_handler)

    def shutdown(self) -> None:
        """Close the connection as soon as what it asked is answered; a stream would never be."""
        super().shutdown()
        if self._end_streams is not None:
            self._end_streams()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or we have hung up."""
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
