"""What is read from and written to ASGI: headers, bodies, answers."""

import itertools
import secrets
from collections.abc import Iterable
from http import HTTPStatus
from typing import Protocol

import msgspec
from starlette.types import Receive, Send

from engine.errors import Unauthorized, ValidationFailed
from engine.failpoints import failpoint
from gateway.errors import ClientGone, Headers, PayloadTooLarge, UnsupportedMediaType

REQUEST_ID_BYTES_MAX = 128
IDEMPOTENCY_KEY_BYTES_MAX = 255
_VISIBLE = bytes(range(0x21, 0x7F))

_SECURITY: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"x-xss-protection", b"1; mode=block"),
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains"),
]
_API_HEADERS: Headers = [
    *_SECURITY,
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]
# Swagger UI sets style attributes and shows images from data: URLs; scripts come from us alone.
_PAGE_HEADERS: Headers = [
    *_SECURITY,
    (
        b"content-security-policy",
        b"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
    ),
    (b"cache-control", b"public, max-age=3600"),
]
# What stands between must neither keep a stream back nor store it.
STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),
    *_API_HEADERS,
]
TEXT_HEADERS: Headers = [(b"content-type", b"text/plain; charset=utf-8"), *_API_HEADERS]
_JSON: Headers = [(b"content-type", b"application/json"), *_API_HEADERS]

_KEYS = (b"idempotency-key", b"x-idempotency-key")
_DIFFERENT = b"\n"
"""Stands for a key that was sent twice with different values; no header's value can be that."""

_request_ids = (
    b"%s-%x" % (prefix, number) for prefix in [secrets.token_hex(8).encode()] for number in itertools.count(1)
)


def new_request_id() -> bytes:
    """An id for a request that brought none."""
    return next(_request_ids)


class Head:
    """The headers of a request that matter to us."""

    __slots__ = (
        "_by_name",
        "authorization",
        "content_length",
        "content_type",
        "expects",
        "keys",
        "request_id",
    )

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        by_name = dict(headers)
        if len(by_name) != len(headers):
            by_name = _joined(headers)
        self._by_name = by_name
        get = by_name.get
        self.authorization = get(b"authorization")
        self.content_length = get(b"content-length")
        self.content_type = get(b"content-type")
        self.expects = get(b"expect") is not None
        self.keys = (get(b"idempotency-key"), get(b"x-idempotency-key"))
        request_id = get(b"x-request-id")
        if request_id is None or not _is_visible(request_id, REQUEST_ID_BYTES_MAX):
            request_id = new_request_id()
        self.request_id = request_id

    def token(self) -> bytes:
        """The bearer token; raises Unauthorized where there is none."""
        authorization = self.authorization
        if authorization is None or authorization[:7].lower() != b"bearer ":
            raise Unauthorized
        return authorization[7:].strip(b" ")

    def idempotency_key(self) -> str | None:
        """The key of `Idempotency-Key` or `X-Idempotency-Key`; raises ValidationFailed for a bad one."""
        key, other = self.keys
        if key is None:
            key = other
            if key is None:
                return None
        elif other is not None and key != other:
            key = _DIFFERENT
        if key == _DIFFERENT:
            raise ValidationFailed("Idempotency-Key", "was sent twice, with different values")
        if not _is_visible(key, IDEMPOTENCY_KEY_BYTES_MAX):
            raise ValidationFailed(
                "Idempotency-Key", "must be 1 to 255 visible ASCII characters without blanks"
            )
        return key.decode("ascii")

    @property
    def is_chunked(self) -> bool:
        """Whether a body comes whose length is not announced."""
        return b"transfer-encoding" in self._by_name

    @property
    def forwarded_for(self) -> bytes | None:
        """What proxies say of where it came from."""
        return self._by_name.get(b"x-forwarded-for")

    def queue_pass(self) -> bytes | None:
        """What `X-Queue-Pass` says."""
        return self._by_name.get(b"x-queue-pass")

    def queue_ticket(self) -> bytes | None:
        """What `X-Queue-Ticket` says."""
        return self._by_name.get(b"x-queue-ticket")

    def last_event_id(self) -> bytes | None:
        """The last event of a stream that the client has seen, as it says."""
        return self._by_name.get(b"last-event-id")

    def check_content_type(self) -> None:
        """Raise UnsupportedMediaType unless the body is said to be JSON."""
        content_type = self.content_type
        if content_type == b"application/json":
            return
        if content_type is None or content_type.partition(b";")[0].strip().lower() != b"application/json":
            raise UnsupportedMediaType


def _is_visible(value: bytes, bytes_max: int) -> bool:
    """Whether these are visible ASCII characters without blanks, at least one and not too many."""
    return 0 < len(value) <= bytes_max and not value.translate(None, _VISIBLE)


def _joined(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers of a request that sent some of them several times.

    What then counts: the last of most; all of X-Forwarded-For, in order; the one value of an
    Idempotency-Key that was repeated, two that differ are of no form; of two authorizations, neither.
    """
    by_name: dict[bytes, bytes] = {}
    for name, value in headers:
        before = by_name.get(name)
        if before is None:
            by_name[name] = value
        elif name == b"authorization":
            by_name[name] = b""
        elif name == b"x-forwarded-for":
            by_name[name] = before + b"," + value
        elif name not in _KEYS:
            by_name[name] = value
        elif value != before:
            by_name[name] = _DIFFERENT
    return by_name


async def read_body(head: Head, receive: Receive, bytes_max: int) -> bytes:
    """The whole body; raises PayloadTooLarge as soon as it is known to be longer than `bytes_max`."""
    announced = head.content_length
    if announced is not None and (not announced.isdigit() or int(announced[:20]) > bytes_max):
        raise PayloadTooLarge(bytes_max)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        parts = [body]
        length = len(body)
        while message.get("more_body", False) and length <= bytes_max:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            length += len(parts[-1])
        body = b"".join(parts)
    if len(body) > bytes_max:
        raise PayloadTooLarge(bytes_max)
    return body


def json_headers(request_id: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Headers:
    """All headers of an answer with a JSON body; `headers` are its own."""
    return [(b"content-length", b"%d" % len(body)), (b"x-request-id", request_id), *_JSON, *headers]


async def send_json(
    send: Send, request_id: bytes, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send a JSON answer; one without a body where the status is 204."""
    if status == 204:
        own: Headers = [(b"x-request-id", request_id), *_API_HEADERS, *headers]
    else:
        own = json_headers(request_id, headers, body)
    await _answer(send, status, own, body)


async def _answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    failpoint("wire.after_head")
    await send({"type": "http.response.body", "body": body})
    failpoint("wire.after_answer")


async def send_page(send: Send, request_id: bytes, page: "Page") -> None:
    """Send what is not JSON of ours: metrics, the documentation's files."""
    headers = [
        (b"content-type", page.content_type.encode()),
        (b"content-length", b"%d" % len(page.body)),
        (b"x-request-id", request_id),
        *(_PAGE_HEADERS if page.cacheable else _API_HEADERS),
    ]
    await _answer(send, 200, headers, page.body)


def _answer_head(status: int) -> bytes:
    lines = [
        b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode()),
        b"content-length: %d",
        b"x-request-id: %b",
        *(name + b": " + value for name, value in _JSON),
        b"%b\r\n%b",
    ]
    return b"\r\n".join(lines)


_ANSWERS = {status.value: _answer_head(status.value) for status in HTTPStatus if status.value >= 200}


def http_answer(
    status: int, request_id: bytes, headers: Headers, body: bytes, *, closes: bool = False
) -> bytes:
    """A JSON answer as it goes over the wire, for what never became ASGI's: the same headers in the same
    order as `send_json` sends them. With `closes` it is the last one of its connection."""
    if len(headers) == 1:
        lines = b"%b: %b\r\n" % headers[0]
    else:
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    if closes:
        lines += b"connection: close\r\n"
    return _ANSWERS[status] % (len(body), request_id, lines, body)


class Exchange(Protocol):
    """A request that was handed over whole, and the way back to whoever sent it."""

    head: Head
    query: bytes

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send the answer, once; does nothing where the client has gone."""


class Page(msgspec.Struct, frozen=True):
    """A ready body that is not one of our JSON answers."""

    body: bytes
    content_type: str
    cacheable: bool = False
