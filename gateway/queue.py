"""POST /queue/join and GET /queue/status: hot routes, asked by everybody who waits.

A status is answered from what this process knows: no call to Redis but for who was let in, and for those one
small read a second at most. Joins of a tick share a script call.
"""

import time
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from engine import ids
from engine.errors import NotFound, Overloaded, StoreUnavailable, Unauthorized, ValidationFailed
from engine.status import Status
from engine.waiting.rooms import is_of
from engine.waiting.state import QueueState
from engine.waiting.tickets import Ticket
from gateway import limits, tickets
from gateway.answers import QueueStateAnswer, encoder
from gateway.decode import Nothing, decode_body, decoder
from gateway.errors import Headers
from gateway.forms import Join
from gateway.hot import HotRoute
from gateway.reserve import LEDGER_SEQ, REPLAYED
from gateway.services import Gateway
from gateway.wire import Exchange, Head
from observability import tallies

JOIN_PATH = "/api/v1/queue/join"
STATUS_PATH = "/api/v1/queue/status"
EVENTS_MAX = 1024
"""Bodies whose event is remembered: everybody who joins a queue sends the same one."""
BODY_BYTES_MAX = 256
_REPLAYED = int(Status.REPLAYED)
_GIVEN = frozenset({int(Status.OK), _REPLAYED})


def answer_body(state: QueueState) -> bytes:
    """A state in the usual envelope."""
    return b'{"success":true,"data":%b}' % encoder.encode(QueueStateAnswer.of(state))


def _event_id(asked: UUID) -> UUID:
    """The id, if it is an event's; raises NotFound for that of a zone, or any other."""
    if not ids.is_rush_id(asked) or asked != ids.event_id_of(asked):
        raise NotFound("There is no such event")
    return asked


class JoinEndpoint(HotRoute):
    """POST /queue/join. Joining again gives the same place, with `Idempotent-Replayed: true`; only that takes
    a token of the user's rate limit. An `Idempotency-Key` is checked and means nothing more.

    A ticket may be shown: after Redis lost its newest people, it gives the place back that it names. One
    that is not of this person in this queue is a 400: nothing hangs on it but the place.
    """

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, JOIN_PATH)
        self._decoder = msgspec.json.Decoder(Join)
        self._events: dict[bytes, UUID] = {}
        self._counted = tallies.counter("http_requests_total", method="POST", route=JOIN_PATH, status="201")
        self._joined = tallies.counter("queue_joins_total", outcome="new")
        self._joined_again = tallies.counter("queue_joins_total", outcome="again")

    def begin(self, exchange: Exchange, body: bytes) -> None:
        """Answer a POST, now or later, by calling `exchange.answer` once; never raises."""
        started_s = time.perf_counter()
        head = exchange.head
        try:
            services = self._gateway.services
            user_id = services.signer.verify(head.token()).sub
            if body:
                head.check_content_type()
            event_id = self._events.get(body)
            if event_id is None:
                event_id = self._remember(body, _event_id(decode_body(self._decoder, body).event_id))
            head.idempotency_key()
            number = self._asserted_number(head, event_id, user_id)
            replied = partial(self._replied, exchange, started_s, event_id, user_id)
            if not services.rooms.calls.ask_join(event_id, user_id, number, replied):
                self._aside(exchange, started_s, self._ask_anew(event_id, user_id, number, replied))
        except Exception as error:
            self._refuse(exchange, started_s, error)

    def _remember(self, body: bytes, event_id: UUID) -> UUID:
        if len(body) <= BODY_BYTES_MAX:
            if len(self._events) >= EVENTS_MAX:
                self._events.clear()
            self._events[body] = event_id
        return event_id

    def _asserted_number(self, head: Head, event_id: UUID, user_id: UUID) -> int:
        text = head.queue_ticket()
        if text is None:
            return 0
        try:
            ticket = self._gateway.services.rooms.signer.read_ticket(text)
        except Unauthorized:
            ticket = None
        if ticket is None or not is_of(ticket, event_id, user_id):
            raise ValidationFailed("X-Queue-Ticket", "is not a ticket of yours for this queue")
        return ticket.number

    async def _ask_anew(self, event_id: UUID, user_id: UUID, number: int, replied: Any) -> None:
        """The first time that this process hears of the cell."""
        calls = self._gateway.services.rooms.calls
        await calls.meet(event_id)
        if not calls.ask_join(event_id, user_id, number, replied):
            raise Overloaded

    def _replied(
        self, exchange: Exchange, started_s: float, event_id: UUID, user_id: UUID, _: str, reply: Any
    ) -> None:
        try:
            if isinstance(reply, Exception):
                self._refuse(exchange, started_s, reply)
                return
            status = reply[0]
            if status not in _GIVEN:
                self._aside(exchange, started_s, self._look_why(event_id, reply))
                return
            rooms = self._gateway.services.rooms
            number = int(reply[2])
            text = rooms.signer.ticket(event_id, user_id, number)
            ticket = Ticket(ids.cell_of(event_id), user_id.bytes, number)
            # Who comes back with a number that was forgotten may just have been told that it is gone.
            rooms.standings.forget(ticket)
            if status == _REPLAYED:
                self._aside(
                    exchange, started_s, self._tell_again(exchange, started_s, ticket, text, reply[1])
                )
                return
            state = rooms.state_known(ticket, text, is_fresh=True)
            if state is None:
                self._aside(
                    exchange, started_s, self._tell_later(exchange, started_s, ticket, text, reply[1])
                )
                return
            self._joined.count += 1
            self._tell_state(exchange, started_s, state, [(LEDGER_SEQ, reply[1])])
        except Exception as error:
            self._refuse(exchange, started_s, error)

    async def _tell_later(
        self, exchange: Exchange, started_s: float, ticket: Ticket, text: str, at: bytes
    ) -> None:
        state = await self._gateway.services.rooms.state_of(ticket, text)
        self._joined.count += 1
        self._tell_state(exchange, started_s, state, [(LEDGER_SEQ, at)])

    async def _tell_again(
        self, exchange: Exchange, started_s: float, ticket: Ticket, text: str, at: bytes
    ) -> None:
        services = self._gateway.services
        await limits.check_user(services.stores, ticket.user_id)
        try:
            state = await services.rooms.state_of(ticket, text)
        except NotFound:
            # Their pass has run out, and the worker that ends such places has not come by yet.
            raise StoreUnavailable("Your old place is just being ended: join again in a moment") from None
        self._joined_again.count += 1
        self._tell_state(exchange, started_s, state, [(LEDGER_SEQ, at), REPLAYED])

    def _tell_state(self, exchange: Exchange, started_s: float, state: QueueState, headers: Headers) -> None:
        exchange.answer(201, headers, answer_body(state))
        self._counted.count += 1
        self._duration.observe(time.perf_counter() - started_s)

    async def _look_why(self, event_id: UUID, reply: Any) -> None:
        """Answer for a join that gave no place."""
        raise await self._gateway.services.rooms.calls.refused(event_id, reply)


class StatusEndpoint(HotRoute):
    """GET /queue/status."""

    method = "GET"
    takes_query = True
    also = frozenset({"HEAD"})

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, STATUS_PATH)
        self._counted = tallies.counter("http_requests_total", method="GET", route=STATUS_PATH, status="200")
        self._polls = tallies.counter("queue_polls_total")

    def begin(self, exchange: Exchange, body: bytes) -> None:
        """Answer a GET, now or later, by calling `exchange.answer` once; never raises."""
        started_s = time.perf_counter()
        try:
            rooms = self._gateway.services.rooms
            shown = tickets.shown(rooms.signer, exchange.head, exchange.query)
            if body:
                exchange.head.check_content_type()
                decode_body(decoder(Nothing), body)
            state = rooms.state_known(shown.ticket, shown.text)
            if state is None:
                self._aside(exchange, started_s, self._tell_later(exchange, started_s, shown))
            else:
                self._tell_state(exchange, started_s, state)
        except Exception as error:
            self._refuse(exchange, started_s, error)

    async def _tell_later(self, exchange: Exchange, started_s: float, shown: tickets.ShownTicket) -> None:
        state = await self._gateway.services.rooms.state_of(shown.ticket, shown.text)
        self._tell_state(exchange, started_s, state)

    def _tell_state(self, exchange: Exchange, started_s: float, state: QueueState) -> None:
        exchange.answer(200, [], answer_body(state))
        self._polls.count += 1
        self._counted.count += 1
        self._duration.observe(time.perf_counter() - started_s)
