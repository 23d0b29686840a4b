"""Reads the answers of a keep-alive HTTP/1.1 connection, whatever pieces they come in.

The parser is llhttp, the one of Node.js, by way of httptools, which uvicorn uses as well: it costs less than
a few searches in Python would, and knows the corners.
"""

from collections.abc import Callable

import httptools

BODY_BYTES_MAX = 1 << 20
REPLAYED = b"idempotent-replayed"

Answer = tuple[int, bytes, bool, bool]
"""Status, body, whether it is a replay, whether the connection stays open after it."""
Taken = Callable[[Answer], object]


class NotHttp(Exception):
    """What came is no HTTP/1.1 answer, or is too long; the connection is of no use any more."""


class AnswerReader:
    """Fed with what was received, it hands on every whole answer, in order."""

    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self.is_replay = False

    def feed(self, received: bytes) -> None:
        """Take what was received; raises NotHttp."""
        try:
            self._parser.feed_data(received)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            reason = error.__context__ or error
            raise NotHttp(str(reason) or type(reason).__name__) from None

    # Called by the parser.

    def on_body(self, part: bytes) -> None:
        """A part of the body; nearly always all of it."""
        self._body = self._body + part if self._body else part
        if len(self._body) > BODY_BYTES_MAX:
            raise NotHttp(f"an answer of more than {BODY_BYTES_MAX:,} bytes")

    def on_message_complete(self) -> None:
        """The end of an answer."""
        status = self._parser.get_status_code()
        body, self._body = self._body, b""
        is_replay, self.is_replay = self.is_replay, False
        if status >= 200:  # those below announce the answer and are none
            self._taken((status, body, is_replay, self._parser.should_keep_alive()))


class ReplayReader(AnswerReader):
    """Looks at the headers too, which costs as much again."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; only one of them matters."""
        if len(name) == len(REPLAYED) and name.lower() == REPLAYED:
            self.is_replay = value == b"true"
