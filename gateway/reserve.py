"""POST /bookings/reserve: the hottest of the hot routes.

What a rush calls a hundred thousand times is answered from the callback that brings Redis' reply. Nothing
else is waited for on the way, and nothing is raised to say that a sale is sold out.
"""

import time
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import msgspec
from msgspec import UNSET

from engine.booking import ItemRequest
from engine.errors import RushError, ValidationFailed
from engine.outcomes import refusal
from engine.reserving import Wish, taken, wish_of
from engine.status import Status
from engine.waiting.tickets import NO_PASS
from gateway.decode import decode_body
from gateway.forms import Reserve
from gateway.granted import GrantedTemplates
from gateway.hot import HotRoute, Told
from gateway.services import Gateway
from gateway.wire import Exchange
from observability import tallies
from observability.tallies import CounterTally

PATH = "/api/v1/bookings/reserve"
REPLAYED = (b"idempotent-replayed", b"true")
LEDGER_SEQ = b"x-ledger-seq"
TOLD_MAX = 1024
"""Refusals that are remembered."""
_OK = int(Status.OK)
_MADE_OF_DETAIL = frozenset({int(Status.INSUFFICIENT_STOCK), int(Status.OVER_USER_LIMIT)})
"""Statuses whose answers are the same wherever the script gave the same detail."""
WISHES_MAX = 1024
"""Bodies whose wish is remembered: in a rush thousands of people send the same one."""
WISH_BYTES_MAX = 1024


@cache
def _failures(code: str) -> CounterTally:
    return tallies.counter("booking_reservation_failures", reason=code)


class ReserveEndpoint(HotRoute):
    """The reserve route."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, PATH)
        self._decoder = msgspec.json.Decoder(Reserve)
        self._fill = GrantedTemplates().fill
        self._wishes: dict[bytes, Wish] = {}
        self._told: dict[tuple[Any, ...], Told] = {}
        self._reserved = tallies.counter("booking_reservations_total")
        self._counted = tallies.counter("http_requests_total", method="POST", route=PATH, status="201")

    def begin(self, exchange: Exchange, body: bytes) -> None:
        """Answer a POST, now or later, by calling `exchange.answer` once; never raises."""
        started_s = time.perf_counter()
        head = exchange.head
        try:
            services = self._gateway.services
            claims = services.signer.verify(head.token())
            if body:
                head.check_content_type()
            wish = self._wishes.get(body)
            if wish is None:
                items = requested_items(decode_body(self._decoder, body))
                key = head.idempotency_key()
                wish = self._remember(body, wish_of(items))
            else:
                key = head.idempotency_key()
            queue_pass = head.queue_pass()
            if queue_pass is None:
                until = NO_PASS
            else:
                until = services.rooms.signer.pass_ms_in(queue_pass, wish.cell_id, claims.sub)
            replied = partial(self._replied, exchange, started_s, wish)
            if not services.bookings.ask(wish, claims.sub, key, replied, until):
                # The first time that this process hears of the cell.
                asking = services.bookings.ask_anew(wish, claims.sub, key, replied, until)
                self._aside(exchange, started_s, asking)
        except Exception as error:
            self._refuse(exchange, started_s, error)

    def _remember(self, body: bytes, wish: Wish) -> Wish:
        if len(body) <= WISH_BYTES_MAX:
            if len(self._wishes) >= WISHES_MAX:
                self._wishes.clear()
            self._wishes[body] = wish
        return wish

    def _replied(self, exchange: Exchange, started_s: float, wish: Wish, booking_id: str, reply: Any) -> None:
        try:
            if isinstance(reply, Exception):
                self._refuse(exchange, started_s, reply)
                return
            status = reply[0]
            if status == _OK:
                exchange.answer(201, [(LEDGER_SEQ, reply[1])], self._fill(booking_id, taken(reply)))
            elif status == Status.REPLAYED:
                headers = [(LEDGER_SEQ, reply[1]), REPLAYED]
                exchange.answer(201, headers, self._fill(booking_id, taken(reply)))
            elif status == Status.NOT_OPEN:
                self._aside(exchange, started_s, self._look_why(wish, reply))
                return
            else:
                self._refuse_as_told(exchange, started_s, reply)
                return
        except Exception as error:
            self._refuse(exchange, started_s, error)
        else:
            self._reserved.count += 1
            self._counted.count += 1
            self._duration.observe(time.perf_counter() - started_s)

    def _refuse_as_told(self, exchange: Exchange, started_s: float, reply: Sequence[Any]) -> None:
        """Refuse as the script did. When all is sold a thousand people are told the same."""
        status, at, *detail = reply
        if status not in _MADE_OF_DETAIL:
            error = refusal(Status(status), at.decode(), detail, self._gateway.settings)
            self._refuse(exchange, started_s, error)
            return
        kind = (status, *detail)
        told = self._told.get(kind)
        if told is None:
            if len(self._told) >= TOLD_MAX:
                self._told.clear()
            error = refusal(Status(status), at.decode(), detail, self._gateway.settings)
            told = self._told[kind] = self._tell(error)
        exchange.answer(told.status, [(LEDGER_SEQ, at)], told.body)
        self._count(told, started_s)

    def _refusal_tallies(self, error: RushError) -> tuple[CounterTally, ...]:
        return (_failures(error.code),)

    async def _look_why(self, wish: Wish, reply: Sequence[Any]) -> None:
        """Answer for a cell that is not open."""
        raise await self._gateway.services.bookings.refused(wish, reply)


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
