"""What is read from and written to ASGI: headers, bodies, answers."""

import itertools
import re
import secrets
from collections.abc import Iterable
from http import HTTPStatus

import msgspec
from starlette.types import Receive, Scope, Send

from engine.errors import Unauthorized, ValidationFailed
from gateway.errors import ClientGone, Headers, PayloadTooLarge, UnsupportedMediaType

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,255}")

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
_JSON: Headers = [(b"content-type", b"application/json"), *_API_HEADERS]

_request_ids = (
    b"%s-%x" % (prefix, number) for prefix in [secrets.token_hex(8).encode()] for number in itertools.count(1)
)


def new_request_id() -> bytes:
    """An id for a request that brought none."""
    return next(_request_ids)


class Head:
    """The headers of a request that matter to us, read in one pass."""

    __slots__ = ("authorization", "content_length", "content_type", "forwarded_for", "keys", "request_id")

    def __init__(self, scope: Scope) -> None:
        self.authorization: bytes | None = None
        self.content_length: bytes | None = None
        self.content_type: bytes | None = None
        self.forwarded_for: bytes | None = None
        self.keys: list[bytes] | None = None
        request_id: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"content-length":
                self.content_length = value
            elif name == b"content-type":
                self.content_type = value
            elif name == b"authorization":
                # A second one makes it malformed: which of the two would count?
                self.authorization = value if self.authorization is None else b""
            elif name == b"x-request-id":
                request_id = value
            elif name in (b"idempotency-key", b"x-idempotency-key"):
                self.keys = [value] if self.keys is None else [*self.keys, value]
            elif name == b"x-forwarded-for":
                self.forwarded_for = (
                    value if self.forwarded_for is None else self.forwarded_for + b"," + value
                )
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
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
        keys = self.keys
        if keys is None:
            return None
        if any(key != keys[0] for key in keys):
            raise ValidationFailed("Idempotency-Key", "was sent twice, with different values")
        if not _IDEMPOTENCY_KEY.fullmatch(keys[0]):
            raise ValidationFailed(
                "Idempotency-Key", "must be 1 to 255 visible ASCII characters without blanks"
            )
        return keys[0].decode("ascii")

    def check_content_type(self) -> None:
        """Raise UnsupportedMediaType unless the body is said to be JSON."""
        content_type = self.content_type
        if content_type == b"application/json":
            return
        if content_type is None or content_type.partition(b";")[0].strip().lower() != b"application/json":
            raise UnsupportedMediaType


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


async def send_json(
    send: Send, request_id: bytes, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send a JSON answer; one without a body where the status is 204."""
    if status == 204:
        own: Headers = [(b"x-request-id", request_id), *_API_HEADERS, *headers]
    else:
        own = [
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id),
            *_JSON,
            *headers,
        ]
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body})


async def send_page(send: Send, request_id: bytes, page: "Page") -> None:
    """Send what is not JSON of ours: metrics, the documentation's files."""
    headers = [
        (b"content-type", page.content_type.encode()),
        (b"content-length", b"%d" % len(page.body)),
        (b"x-request-id", request_id),
        *(_PAGE_HEADERS if page.cacheable else _API_HEADERS),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": page.body})


def plain_http(request_id: bytes, status: int, body: bytes) -> bytes:
    """A JSON answer as it goes over the wire, for a request that never became ASGI's; the last one of
    its connection."""
    head = [
        b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode()),
        b"content-length: %d" % len(body),
        b"x-request-id: " + request_id,
        *(name + b": " + value for name, value in _JSON),
        b"connection: close",
    ]
    return b"\r\n".join([*head, b"", body])


class Page(msgspec.Struct, frozen=True):
    """A ready body that is not one of our JSON answers."""

    body: bytes
    content_type: str
    cacheable: bool = False
