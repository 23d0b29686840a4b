"""The queue ticket that a request shows.

In the header `X-Queue-Ticket` or, for what cannot send one (a browser's EventSource), in `?ticket=`; the
header wins. A ticket that is missing, forged or altered is a 401.
"""

import msgspec

from engine.errors import Unauthorized
from engine.waiting.tickets import QueueSigner, Ticket
from gateway.decode import decode_query
from gateway.forms import TicketQuery
from gateway.wire import Head

_SIMPLE = b"ticket="


class ShownTicket(msgspec.Struct, frozen=True):
    """A ticket of ours, and its text."""

    ticket: Ticket
    text: str


def shown(signer: QueueSigner, head: Head, query: bytes) -> ShownTicket:
    """The ticket of a request; raises Unauthorized."""
    sent = head.queue_ticket()
    if sent is not None:
        return ShownTicket(signer.read_ticket(sent), sent.decode("ascii"))
    text: str | None = None
    if query.startswith(_SIMPLE) and b"&" not in query and b"%" not in query:
        text = query[len(_SIMPLE) :].decode("latin-1")
    elif query:
        text = decode_query(TicketQuery, query).ticket
    if text is None:
        raise Unauthorized("A queue ticket is needed: X-Queue-Ticket or ?ticket=")
    return ShownTicket(signer.read_ticket(text), text)
