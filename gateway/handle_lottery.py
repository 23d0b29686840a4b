"""The lottery of a waiting room: what everybody may see of it, and what the organizer enters."""

from functools import partial

from engine.errors import Unauthorized
from engine.waiting.entrants import lottery_of
from engine.waiting.published import PublishedDraw, PublishedProof
from gateway.forms import Randomness
from gateway.operation import Call, Reply


async def show(call: Call) -> Reply:
    """The draw as it stands; the seed only once nothing can change any more."""
    return Reply(PublishedDraw.of(await lottery_of(call.services.stores.pool, call.id)))


async def show_proof(call: Call) -> Reply:
    """The proof that the ticket's number takes part."""
    ticket = call.queue_ticket.ticket
    if ticket.event_id != call.id:
        raise Unauthorized("This ticket is of another queue")
    proof = await call.services.proofs.prove(call.id, ticket.number, ticket.user_id)
    return Reply(PublishedProof.of(proof))


async def list_entrants(call: Call) -> Reply:
    """All entrants by their pseudonyms, as text."""
    lottery = await lottery_of(call.services.stores.pool, call.id)
    lists = call.services.entrant_lists
    lists.check(lottery)
    return Reply(stream=partial(lists.serve, lottery))


async def enter_randomness(call: Call) -> Reply:
    """Enter what the named public round said, once."""
    form: Randomness = call.body
    signature = None if form.signature is None else bytes.fromhex(form.signature)
    lottery = await call.services.draws.enter_randomness(
        call.user, call.id, form.round, bytes.fromhex(form.randomness), signature
    )
    return Reply(PublishedDraw.of(lottery))
