"""One keep-alive HTTP/1.1 connection on gevent's event loop, one request at a time."""

import enum
import socket
import time
from typing import Protocol

import gevent  # type: ignore[import-untyped]
import gevent.event  # type: ignore[import-untyped]
import gevent.monkey  # type: ignore[import-untyped]
import gevent.socket  # type: ignore[import-untyped]

from loadtest.hot_reader import Answer, AnswerReader, NotHttp, ReplayReader

CONNECT_TIMEOUT_S = 5.0
RECEIVE_BYTES = 65_536
NOTHING_SENT = -1
_READ, _WRITE = 1, 2
_PlainSocket: type[socket.socket] = gevent.monkey.get_original("socket", "socket")


class Broken(enum.Enum):
    """Why a connection is gone."""

    CLOSED = "the server closed the connection"
    NOT_HTTP = "the answer is not HTTP"
    UNASKED = "an answer that nobody asked for"
    TIMED_OUT = "no answer in time"


class Owner(Protocol):
    """Who gets what a connection was answered. Called in the event loop: nothing of it may wait."""

    def answered(
        self,
        connection: "HotConnection",
        number: int,
        due_s: float,
        status: int,
        body: bytes,
        is_replay: bool,
    ) -> None:
        """A whole answer; the connection is free, unless `closed` is set."""

    def broke(self, connection: "HotConnection", due_s: float | None, why: Broken, detail: str) -> None:
        """The connection is gone."""


class HotConnection:
    """Connected when it is made; raises OSError where that fails."""

    def __init__(self, host: str, port: int, owner: Owner, *, sees_replays: bool = False) -> None:
        cooperative = gevent.socket.create_connection((host, port), CONNECT_TIMEOUT_S)
        cooperative.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Plain from here on: every receive follows the loop's word that there is something.
        self._socket = _PlainSocket(fileno=cooperative.detach())
        self._socket.setblocking(False)
        self._receive = self._socket.recv
        self._owner = owner
        reader = ReplayReader if sees_replays else AnswerReader
        self._answers: list[Answer] = []
        """Whole, and not handed on yet: the next request is sent when the reader is done with this read."""
        self._feed = reader(self._answers.append).feed
        self._rest: memoryview | None = None
        self.number = NOTHING_SENT
        """Of the request that waits for its answer."""
        self.due_s = self.sent_s = 0.0
        self.closed = gevent.event.Event()
        loop = gevent.get_hub().loop
        self._writable = loop.io(self._socket.fileno(), _WRITE)
        self._readable = loop.io(self._socket.fileno(), _READ)
        self._readable.start(self._on_readable)

    def send(self, request: memoryview, number: int, due_s: float) -> None:
        """Send a request that was to be sent at `due_s`; the owner gets its answer."""
        self.number, self.due_s, self.sent_s = number, due_s, time.perf_counter()
        self._rest = request
        self._send_rest()

    def _send_rest(self) -> None:
        rest = self._rest
        assert rest is not None
        try:
            sent = self._socket.send(rest)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.break_off(Broken.CLOSED, str(error))
            return
        if sent == len(rest):
            self._rest = None
            self._writable.stop()
        else:
            self._rest = rest[sent:]
            self._writable.start(self._send_rest)

    def _on_readable(self) -> None:
        try:
            received = self._receive(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.break_off(Broken.CLOSED, str(error))
            return
        if not received:
            self.break_off(Broken.CLOSED, Broken.CLOSED.value)
            return
        try:
            self._feed(received)
        except NotHttp as error:
            self.break_off(Broken.NOT_HTTP, str(error))
            return
        answers = self._answers
        if not answers:
            return
        if len(answers) > 1 or self.number == NOTHING_SENT or self._rest is not None:
            self.break_off(Broken.UNASKED, f"{len(answers)} answers in one read")
            return
        status, body, is_replay, stays_open = answers.pop()
        number, self.number = self.number, NOTHING_SENT
        if not stays_open:
            self.close()
        self._owner.answered(self, number, self.due_s, status, body, is_replay)

    def break_off(self, why: Broken, detail: str) -> None:
        """Close, and tell the owner."""
        if self.closed.is_set():
            return
        is_waiting = self.number != NOTHING_SENT
        self.close()
        self._owner.broke(self, self.due_s if is_waiting else None, why, detail)

    def close(self) -> None:
        """Close; the owner is not told."""
        if self.closed.is_set():
            return
        self.number = NOTHING_SENT
        self._rest = None
        for watcher in (self._readable, self._writable):
            watcher.stop()
            watcher.close()
        self._socket.close()
        self.closed.set()
