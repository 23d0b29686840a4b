"""Bookings, but for the hot route (gateway.reserve)."""

from engine.bookings import Answer
from gateway.answers import BookingAnswer
from gateway.errors import Headers
from gateway.operation import Call, Reply

NOT_YET: Headers = [(b"retry-after", b"1")]


def _reply(answer: Answer, status: int | None = None, headers: Headers | None = None) -> Reply:
    position = (b"x-ledger-seq", answer.ledger_seq.encode())
    return Reply(BookingAnswer.of(answer.booking), status=status, headers=[position, *(headers or [])])


async def confirm(call: Call) -> Reply:
    """Turn a hold into a sale; 202 where it is not durable yet."""
    answer = await call.services.bookings.confirm(call.user.sub, call.id)
    return _reply(answer) if answer.booking.durable else _reply(answer, 202, NOT_YET)


async def cancel(call: Call) -> Reply:
    """Give a hold back."""
    return _reply(await call.services.bookings.cancel(call.user.sub, call.id))


async def get_booking(call: Call) -> Reply:
    """An own booking, from the moment it was answered."""
    return Reply(BookingAnswer.of(await call.services.bookings.get(call.user.sub, call.id)))


async def list_bookings(call: Call) -> Reply:
    """Own bookings, newest first."""
    return await _list(call, call.query.status)


async def list_pending(call: Call) -> Reply:
    """Own bookings that wait to be confirmed, newest first."""
    return await _list(call, "reserved")


async def _list(call: Call, status: str | None) -> Reply:
    query = call.query
    bookings, total = await call.services.bookings.list(
        call.user.sub, status=status, event_id=query.event_id, page=query.page, per_page=query.per_page
    )
    return call.list_reply([BookingAnswer.of(booking) for booking in bookings], total)
