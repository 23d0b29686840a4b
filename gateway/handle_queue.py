"""The waiting room, but for its hot routes (gateway.queue)."""

from functools import partial

from gateway.answers import EventAnswer, PassAnswer, rfc3339
from gateway.errors import Headers
from gateway.operation import Call, Reply
from gateway.streams import event_id
from observability import metrics


async def stream(call: Call) -> Reply:
    """The same as the status, as server-sent events; 204 for who knows already that the queue is closed:
    that keeps a browser's EventSource from coming again."""
    shown, services = call.queue_ticket, call.services
    services.streams.check_room()
    state = await services.rooms.state_of(shown.ticket, shown.text)
    last = call.head.last_event_id()
    if state.status == "closed":
        view = await services.rooms.views.find(shown.ticket.cell_id)
        if last == event_id(view.epoch, state):
            return Reply(status=204)
    return Reply(stream=partial(services.streams.serve, shown, last))


async def claim_pass(call: Call) -> Reply:
    """The pass of who is served."""
    claimed = await call.services.rooms.claim(call.user.sub, call.queue_ticket.ticket)
    headers: Headers = [(b"x-ledger-seq", claimed.ledger_seq.encode())]
    if claimed.is_new:
        metrics.counter("queue_passes_claimed_total").inc()
    else:
        headers.append((b"idempotent-replayed", b"true"))
    return Reply(
        PassAnswer(queue_pass=claimed.text, expires_at=rfc3339(claimed.expires_at_ms)), headers=headers
    )


async def leave(call: Call) -> Reply:
    """Give the place up."""
    at = await call.services.rooms.leave(call.user.sub, call.queue_ticket.ticket)
    return Reply(headers=[(b"x-ledger-seq", at.encode())])


async def pause(call: Call) -> Reply:
    """Let nobody in for now."""
    return Reply(EventAnswer.of(await call.services.catalogue.pause_queue(call.user, call.id)))


async def resume(call: Call) -> Reply:
    """Let people in again."""
    return Reply(EventAnswer.of(await call.services.catalogue.resume_queue(call.user, call.id)))
