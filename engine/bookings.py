"""Reserve, confirm, cancel: the hot path.

Each is one script call on the hot line, which reservations of the same tick share. Only confirm waits
for more: until its ledger entry is durable.
"""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from engine import ids
from engine.booking import Booking, ItemRequest, from_record, from_reply, from_row, parse_record
from engine.cells import Cell, CellDirectory
from engine.durability import Durability, Settled
from engine.errors import (
    Fenced,
    InvalidState,
    NotFound,
    Overloaded,
    ReservationExpired,
    RushError,
    SaleNotOpen,
    ServiceUnavailable,
    StoreUnavailable,
)
from engine.failpoints import failpoint
from engine.gathering import Replied
from engine.ledger import parse_position
from engine.outcomes import refusal
from engine.reserving import Reserving, Wish, as_reserved, taken, wish_of
from engine.sql import load_queries
from engine.status import Status
from engine.stores import POSTGRES_ERRORS, Stores

queries = load_queries("bookings")

CODE_LETTERS = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_LENGTH = 10


class Answer(msgspec.Struct, frozen=True):
    """A booking, and where the ledger stood when the answer was given (`<epoch>-<seq>`)."""

    booking: Booking
    ledger_seq: str
    replayed: bool = False


class Bookings:
    """The bookings of all events, as one gateway process sees them."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._cells = CellDirectory(stores)
        self._durability = Durability(stores)
        self._reserving = Reserving(stores, self._cells)

    async def start(self) -> None:
        """Begin to hear what becomes durable."""
        await self._durability.start()

    async def close(self) -> None:
        """Stop waiting for anything."""
        await self._durability.close()

    async def reserve(
        self,
        user_id: UUID,
        items: Sequence[ItemRequest],
        idempotency_key: str | None,
        queue_pass: str = "",
    ) -> Answer:
        """Take 1-8 items of one event for this buyer, all or none. `queue_pass` is "" where none was shown,
        "-" for one that is not valid, else when it runs out, in ms.

        Raises ValidationFailed, NotFound, SaleNotOpen, RateLimited, QueuePassRequired, QueuePassInvalid,
        MaxPerUserExceeded, InsufficientStock, IdempotencyKeyReused, or a ServiceUnavailable; after
        OutcomeUnknown a retry with the same key finds out what happened.
        """
        wish = wish_of(items)
        answered: asyncio.Future[tuple[str, Any]] = asyncio.get_running_loop().create_future()

        def replied(booking_id: str, reply: Any) -> None:
            if not answered.done():
                answered.set_result((booking_id, reply))

        if not self.ask(wish, user_id, idempotency_key, replied, queue_pass):
            await self.ask_anew(wish, user_id, idempotency_key, replied, queue_pass)
        booking_id, reply = await answered
        if isinstance(reply, Exception):
            raise reply
        if reply[0] not in (Status.OK, Status.REPLAYED):
            raise await self.refused(wish, reply)
        is_replay = reply[0] == Status.REPLAYED
        at = reply[1].decode()
        position = parse_position(reply[-1] if is_replay else at)
        booking = as_reserved(UUID(booking_id), user_id, taken(reply), position)
        return Answer(booking, at, is_replay)

    def ask(
        self, wish: Wish, user_id: UUID, idempotency_key: str | None, replied: Replied, queue_pass: str = ""
    ) -> bool:
        """What `reserve` begins with: see `Reserving.ask`. Where that is False there is `ask_anew`."""
        return self._reserving.ask(wish, user_id, idempotency_key, replied, queue_pass)

    async def ask_anew(
        self, wish: Wish, user_id: UUID, idempotency_key: str | None, replied: Replied, queue_pass: str = ""
    ) -> None:
        """Meet the wish's cell, then ask. Raises NotFound or a ServiceUnavailable."""
        await self._cells.find(wish.cell_id)
        if not self._reserving.ask(wish, user_id, idempotency_key, replied, queue_pass):
            # So many cells were met at once that this one was forgotten again.
            raise Overloaded

    async def refused(self, wish: Wish, reply: Sequence[Any]) -> RushError:
        """The exception for a reserve that was not granted."""
        status = Status(reply[0])
        if status == Status.NOT_OPEN:
            if await self._cells.is_closed(wish.cell_id):
                return SaleNotOpen(details={"status": "ended", "opens_at": None})
            await self._cells.wake_recovery(wish.cell_id)
        return refusal(status, reply[1].decode(), reply[2:], self._stores.settings)

    async def confirm(self, user_id: UUID, booking_id: UUID) -> Answer:
        """Turn a hold into a sale and wait until that is durable.

        `booking.durable` false: not within the time, ask again. Raises NotFound, InvalidState,
        ReservationExpired, PaymentRequired, or a ServiceUnavailable.
        """
        cell = await self._find(booking_id)
        keys = cell.keys
        code = "".join(secrets.choice(CODE_LETTERS) for _ in range(CODE_LENGTH))
        reply = await self._stores.run(
            "confirm",
            [keys.sale, keys.buyers, keys.ledger, keys.deadlines, keys.booking(booking_id)],
            str(booking_id),
            str(user_id),
            code,
            0,
        )
        failpoint("bookings.after_confirm")
        if reply[0] not in (Status.OK, Status.REPLAYED):
            return await self._ended(cell, reply, user_id, booking_id, "confirmed")
        answer = Answer(from_reply(booking_id, reply[2:]), reply[1].decode(), reply[0] == Status.REPLAYED)
        return await self._until_durable(cell, answer)

    async def cancel(self, user_id: UUID, booking_id: UUID) -> Answer:
        """Give a hold back. Raises NotFound, InvalidState, ReservationExpired, or a ServiceUnavailable."""
        cell = await self._find(booking_id)
        keys = cell.keys
        reply = await self._stores.run(
            "cancel",
            [keys.sale, keys.buyers, keys.ledger, keys.deadlines, keys.booking(booking_id)],
            str(booking_id),
            str(user_id),
        )
        failpoint("bookings.after_cancel")
        if reply[0] not in (Status.OK, Status.REPLAYED):
            return await self._ended(cell, reply, user_id, booking_id, "cancelled")
        booking = from_reply(booking_id, reply[2:])
        booking.durable = self._durability.is_durable(cell.id, booking.position, booking.id)
        return Answer(booking, reply[1].decode(), reply[0] == Status.REPLAYED)

    async def get(self, user_id: UUID, booking_id: UUID) -> Booking:
        """This buyer's booking from the moment it was answered; raises NotFound."""
        cell = await self._find(booking_id)
        try:
            row = await self._row(user_id, booking_id)
            is_postgres_away = False
        except StoreUnavailable:
            row, is_postgres_away = None, True
        try:
            epoch = self._stores.line.call("HGET", cell.keys.sale, "epoch")
            record = self._stores.line.call("GET", cell.keys.booking(booking_id))
            is_open, text = await epoch is not None, await record
        except ServiceUnavailable:
            if row is None:
                raise
            return row
        if is_open and text is not None:
            booking = from_record(booking_id, parse_record(text))
            if booking.user_id == user_id and (row is None or row.version < booking.version):
                return booking
        if row is None:
            raise StoreUnavailable if is_postgres_away else NotFound
        return row

    async def list(
        self, user_id: UUID, *, status: str | None, event_id: UUID | None, page: int, per_page: int
    ) -> tuple[Sequence[Booking], int]:
        """A page of this buyer's bookings from Postgres, newest first, and the number of all."""
        match = {"user_id": user_id, "status": status, "event_id": event_id}
        page_of = {"rows_max": per_page, "rows_skipped": (page - 1) * per_page}
        rows = [row async for row in queries.list_bookings(self._stores.pool, **match, **page_of)]
        if rows or page == 1:
            return [from_row(row) for row in rows], rows[0]["total"] if rows else 0
        return [], await queries.count_bookings(self._stores.pool, **match)

    async def _find(self, booking_id: UUID) -> Cell:
        if not ids.is_rush_id(booking_id):
            raise NotFound
        cell_id = ids.cell_of(booking_id)
        return self._cells.known(cell_id) or await self._cells.find(cell_id)

    async def _row(self, user_id: UUID, booking_id: UUID) -> Booking | None:
        """What Postgres says of this buyer's booking; raises StoreUnavailable."""
        try:
            row = await queries.find_booking(self._stores.pool, booking_id=booking_id)
        except POSTGRES_ERRORS:
            raise StoreUnavailable from None
        return from_row(row) if row is not None and row["user_id"] == user_id else None

    async def _ended(
        self, cell: Cell, reply: Sequence[Any], user_id: UUID, booking_id: UUID, wanted: str
    ) -> Answer:
        """Answer a confirm or cancel that the script did not carry out.

        Redis forgets ended bookings after a day and closed cells as well; Postgres remembers them. A
        cell that is merely not open says nothing about its bookings.
        """
        status, at = Status(reply[0]), reply[1].decode()
        if status == Status.NOT_OPEN and not await self._cells.is_closed(cell.id):
            await self._cells.wake_recovery(cell.id)
            raise Fenced
        if status in (Status.NOT_OPEN, Status.BOOKING_UNKNOWN):
            return Answer(self._as_row_says(await self._row(user_id, booking_id), wanted), at, replayed=True)
        raise refusal(status, at, reply[2:], self._stores.settings)

    def _as_row_says(self, row: Booking | None, wanted: str) -> Booking:
        """The stored booking where it is in the wanted state; raises what its state means otherwise."""
        if row is None:
            raise NotFound
        if row.status == wanted:
            return row
        if row.status in ("expired", "reserved"):
            raise ReservationExpired
        raise InvalidState(details={"status": row.status})

    async def _until_durable(self, cell: Cell, answer: Answer) -> Answer:
        booking = answer.booking
        settled = await self._durability.wait(
            cell.id, booking.position, booking.id, booking.version, self._stores.settings.confirm_wait_ms
        )
        match settled:
            case Settled.DURABLE:
                booking.durable = True
            case Settled.NOT_YET:
                booking.confirmation_code = None
            case Settled.REJECTED:
                row = await self._row(booking.user_id, booking.id)
                if row is not None and row.status == "reserved":
                    raise ServiceUnavailable(
                        "The confirmation was lost, confirm again", ledger_seq=answer.ledger_seq
                    )
                if row is None:
                    raise InvalidState("The booking did not survive", details={"status": "cancelled"})
                return Answer(self._as_row_says(row, "confirmed"), answer.ledger_seq)
        return answer
