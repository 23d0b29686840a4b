"""POST /bookings/reserve: the hot route, ASGI from end to end.

No middleware, no Request object: what a rush calls a hundred thousand times reads its headers once,
receives its body once, calls the engine and sends two messages.
"""

import time

import msgspec
from msgspec import UNSET
from starlette.types import Receive, Scope, Send

from engine.booking import ItemRequest
from engine.errors import ValidationFailed
from gateway.answers import BookingAnswer
from gateway.decode import decode_body
from gateway.errors import ClientGone, MethodNotAllowed, render, to_rush_error
from gateway.forms import Reserve
from gateway.services import Gateway
from gateway.wire import Head, read_body, send_json
from observability import metrics

PATH = "/api/v1/bookings/reserve"
REPLAYED = (b"idempotent-replayed", b"true")


class _Envelope(msgspec.Struct):
    success: bool
    data: BookingAnswer


class ReserveEndpoint:
    """The ASGI application of the reserve route."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._bytes_max = gateway.settings.body_bytes_max
        self._decoder = msgspec.json.Decoder(Reserve)
        self._encode = msgspec.json.Encoder().encode
        self._reserved = metrics.counter("booking_reservations_total")
        self._counted = metrics.request_count("POST", PATH, 201)
        self._duration = metrics.request_duration("POST", PATH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one reservation, whatever happens."""
        started_s = time.perf_counter()
        head = Head(scope)
        if scope["method"] != "POST":
            await self._refuse(scope, send, head.request_id, MethodNotAllowed(["POST"]))
            return
        try:
            body = await read_body(head, receive, self._bytes_max)
            services = self._gateway.services
            claims = services.signer.verify(head.token())
            if body:
                head.check_content_type()
            items = requested_items(decode_body(self._decoder, body))
            answer = await services.bookings.reserve(claims.sub, items, head.idempotency_key())
            headers = [(b"x-ledger-seq", answer.ledger_seq.encode())]
            if answer.replayed:
                headers.append(REPLAYED)
            reply = self._encode(_Envelope(True, BookingAnswer.of(answer.booking)))
            await send_json(send, head.request_id, 201, reply, headers)
        except ClientGone:
            return
        except Exception as error:
            await self._refuse(scope, send, head.request_id, error)
        else:
            self._reserved.inc()
            self._counted.inc()
        self._duration.observe(time.perf_counter() - started_s)

    async def _refuse(self, scope: Scope, send: Send, request_id: bytes, error: Exception) -> None:
        refusal = to_rush_error(error, request_id)
        status, headers, body = render(refusal)
        await send_json(send, request_id, status, body, headers)
        method = "POST" if scope["method"] == "POST" else "other"
        metrics.request_count(method, PATH, status).inc()
        metrics.reservation_failure(refusal.code).inc()


def requested_items(form: Reserve) -> list[ItemRequest]:
    """The items of either form; raises ValidationFailed for a mixture or half of one."""
    single = (form.show_id, form.zone_id, form.quantity)
    if form.items is not UNSET:
        if single != (UNSET, UNSET, UNSET):
            raise ValidationFailed("items", "comes without show_id, zone_id and quantity")
        return [ItemRequest(item.zone_id, item.quantity) for item in form.items]
    show_id, zone_id, quantity = single
    if show_id is UNSET or zone_id is UNSET or quantity is UNSET:
        names = zip(("show_id", "zone_id", "quantity"), single, strict=True)
        missing = [name for name, value in names if value is UNSET]
        raise ValidationFailed("items" if len(missing) == 3 else missing[0], "is missing")
    return [ItemRequest(zone_id, quantity, show_id)]
