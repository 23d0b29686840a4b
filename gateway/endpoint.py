"""The ASGI application of one path: the checks in the contract's order, then the handler."""

import time
from typing import Any
from uuid import UUID

import msgspec
from starlette.types import Receive, Scope, Send

from engine.errors import Forbidden, NotFound, RushError
from engine.tokens import Claims
from engine.waiting.rooms import check_owner
from gateway import limits, tickets
from gateway.addresses import ClientAddresses
from gateway.answers import encoder
from gateway.decode import Nothing, decode_body, decode_id, decode_id_or_slug, decode_query
from gateway.errors import ClientGone, MethodNotAllowed, render, to_rush_error
from gateway.operation import Call, NoQuery, Operation, Reply
from gateway.services import Gateway
from gateway.wire import Head, read_body, send_json, send_page
from observability import metrics

ORGANIZER_ROLES = ("organizer", "admin")


class Endpoint:
    """All operations of one path."""

    def __init__(
        self,
        gateway: Gateway,
        operations: list[Operation],
        addresses: ClientAddresses,
        public_reads: limits.PublicReads,
    ) -> None:
        self._gateway = gateway
        self._addresses = addresses
        self._public_reads = public_reads
        self._path = operations[0].path
        self._operations = {operation.method: operation for operation in operations}
        self._decoders = {operation.method: msgspec.json.Decoder(operation.body) for operation in operations}
        # A stream has no end, so its head alone is not to be had.
        if "GET" in self._operations and not self._operations["GET"].is_stream:
            self._operations |= {"HEAD": self._operations["GET"]}  # type: ignore[dict-item]
            self._decoders |= {"HEAD": self._decoders["GET"]}  # type: ignore[dict-item]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        started_s = time.perf_counter()
        head = Head(scope["headers"])
        method = scope["method"]
        try:
            operation = self._operation(method)
            reply = await self._answer(operation, method, head, scope, receive)
            if reply.stream is not None:
                metrics.request_count(method, self._path, 200).inc()
                await reply.stream(scope, receive, send, head.request_id)
                return
            if reply.page is not None:
                await send_page(send, head.request_id, reply.page)
                status = 200
            else:
                status = reply.status or operation.status
                body = b"" if status == 204 else _envelope(reply)
                await send_json(send, head.request_id, status, body, reply.headers)
        except ClientGone:
            return
        except Exception as error:
            status = await send_error(send, head.request_id, error)
        known = method if method in self._operations else "other"
        metrics.request_count(known, self._path, status).inc()
        metrics.request_duration(known, self._path).observe(time.perf_counter() - started_s)

    def _operation(self, method: str) -> Operation:
        operation: Operation | None = self._operations.get(method)  # type: ignore[call-overload]
        if operation is None:
            raise MethodNotAllowed(sorted(self._operations))
        return operation

    async def _answer(
        self, operation: Operation, method: str, head: Head, scope: Scope, receive: Receive
    ) -> Reply:
        """Size, token, role, form, and then what the handler finds: existence and state."""
        body = await read_body(head, receive, self._gateway.settings.body_bytes_max)
        claims = await self._authorize(operation, head)
        ticket = None
        if operation.auth in ("ticket", "user and ticket"):
            ticket = tickets.shown(self._gateway.services.rooms.signer, head, scope["query_string"])
            if claims is not None:
                check_owner(ticket.ticket, claims.sub)
        address = self._addresses.of(scope, head)
        if operation.auth == "none" and operation.path.startswith("/api/") and method in ("GET", "HEAD"):
            self._public_reads.check(address)
        path_text, path_id = _path_id(operation, scope["path_params"])
        call = Call(
            services=self._gateway.services,
            claims=claims,
            ticket=ticket,
            head=head,
            address=address,
            path_text=path_text,
            path_id=path_id,
            body=self._decode(operation, method, head, body),
            query=None
            if operation.query is NoQuery
            else decode_query(operation.query, scope["query_string"]),
        )
        assert operation.handler is not None
        return await operation.handler(call)

    async def _authorize(self, operation: Operation, head: Head) -> Claims | None:
        if operation.auth in ("none", "ticket"):
            return None
        services = self._gateway.services
        claims = services.signer.verify(head.token())
        if operation.auth == "organizer" and claims.role not in ORGANIZER_ROLES:
            raise Forbidden
        await limits.check_user(services.stores, claims.sub)
        return claims

    def _decode(self, operation: Operation, method: str, head: Head, body: bytes) -> Any:
        if body:
            head.check_content_type()
        elif not operation.needs_body:
            return Nothing()
        return decode_body(self._decoders[method], body)  # type: ignore[index]


def _path_id(operation: Operation, path_params: dict[str, str]) -> tuple[str, UUID | None]:
    """The path's parameter as text and, where it has to be one, as an id; raises ValidationFailed."""
    text = path_params.get("id", "")
    if not text or operation.path_id == "file":
        return text, None
    if operation.path_id == "uuid":
        return text, decode_id(text)
    decode_id_or_slug(text)
    return text, None


def _envelope(reply: Reply) -> bytes:
    data = encoder.encode(reply.data)
    if reply.paging is None:
        return b'{"success":true,"data":%b}' % data
    return b'{"success":true,"data":%b,"meta":%b}' % (data, encoder.encode(reply.paging))


async def send_error(send: Send, request_id: bytes, error: Exception) -> int:
    """Send the answer that tells of an exception; its status."""
    rush_error: RushError = to_rush_error(error, request_id)
    status, headers, body = render(rush_error)
    await send_json(send, request_id, status, body, headers)
    return status


class NotFoundEndpoint:
    """The ASGI application of every path that there is not."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404 in the usual envelope."""
        if scope["type"] != "http":
            return
        status = await send_error(send, Head(scope["headers"]).request_id, NotFound("There is no such path"))
        metrics.request_count("other", "none", status).inc()
