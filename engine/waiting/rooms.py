"""The waiting rooms as a gateway process has them: what it knows, what it asks Redis, and what it signs."""

import random
import time
from uuid import UUID

import msgspec

from engine import ids
from engine.cells import CellDirectory
from engine.errors import Unauthorized
from engine.stores import Stores
from engine.waiting.calls import QueueCalls
from engine.waiting.standings import Standings
from engine.waiting.state import QueueState, must_be_asked_for, state
from engine.waiting.tickets import QueueSigner, Ticket
from engine.waiting.view import QueueViews, View


class Pass(msgspec.Struct, frozen=True):
    """The right to reserve, until then."""

    text: str
    expires_at_ms: int
    is_new: bool
    ledger_seq: str


class WaitingRooms:
    """All that people do in waiting rooms but reserving."""

    def __init__(self, stores: Stores) -> None:
        cells = CellDirectory(stores)
        self.signer = QueueSigner(stores.settings.jwt_secret)
        self.views = QueueViews(stores, cells)
        self.calls = QueueCalls(stores, cells)
        self.standings = Standings(stores)

    async def close(self) -> None:
        """Look at nothing any more."""
        await self.views.close()

    def state_known(self, ticket: Ticket, text: str, *, is_fresh: bool = False) -> QueueState | None:
        """How the ticket's owner stands, where nobody has to be asked; else there is `state_of`. `is_fresh`
        is for a number that was given just now.

        Raises NotFound for a place that has ended.
        """
        view = self.views.known(ticket.cell_id)
        if view is None:
            return None
        standing = None
        if must_be_asked_for(view, ticket.number, is_fresh=is_fresh):
            standing = self.standings.known(ticket)
            if standing is None:
                return None
        return state(view, text, ticket.number, standing or "waiting", _now_ms(), _spread())

    async def state_of(self, ticket: Ticket, text: str) -> QueueState:
        """How the ticket's owner stands; raises NotFound for an ended place, or a ServiceUnavailable."""
        view = await self.views.find(ticket.cell_id)
        standing = None
        if must_be_asked_for(view, ticket.number) and not view.is_over(_now_ms()):
            standing = self.standings.known(ticket) or await self.standings.find(ticket)
        return state(view, text, ticket.number, standing or "waiting", _now_ms(), _spread())

    async def claim(self, user_id: UUID, ticket: Ticket) -> Pass:
        """The pass of who is served; the same one again while it is out.

        Raises NotFound, SaleNotOpen, InvalidState (`waiting`, `admitted`), or a ServiceUnavailable.
        """
        event_id = ticket.event_id
        place = await self._place(ticket)
        claimed = await self.calls.claim(event_id, user_id, ticket.number, place)
        self.standings.forget(ticket)
        text = self.signer.queue_pass(event_id, user_id, claimed.expires_at_ms)
        return Pass(text, claimed.expires_at_ms, claimed.is_new, claimed.ledger_seq)

    async def leave(self, user_id: UUID, ticket: Ticket) -> str:
        """Give the place up; where the ledger stands then. Raises NotFound, or a ServiceUnavailable."""
        place = await self._place(ticket)
        at = await self.calls.leave(ticket.event_id, user_id, ticket.number, place)
        self.standings.forget(ticket)
        return at

    async def _place(self, ticket: Ticket) -> int:
        """The place for a script, 0 before the draw. Only after a draw is it not the number, which the script
        knows: then the view has seen the draw, or the script asks to be called again."""
        view: View = await self.views.find(ticket.cell_id)
        return view.place_of(ticket.number) or 0


def check_owner(ticket: Ticket, user_id: UUID) -> None:
    """Raise Unauthorized for the ticket of somebody else."""
    if ticket.user != user_id.bytes:
        raise Unauthorized("This queue ticket is somebody else's")


def is_of(ticket: Ticket, event_id: UUID, user_id: UUID) -> bool:
    """Whether a ticket is of this person in this event's queue."""
    return ticket.user == user_id.bytes and ticket.cell_id == ids.cell_of(event_id)


def _spread() -> float:
    return random.random()  # noqa: S311 - it spreads, it hides nothing


def _now_ms() -> int:
    return int(time.time() * 1000)
