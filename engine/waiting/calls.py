"""Join, leave, claim: what a person does in the waiting room. Each is one script call; joins share theirs."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from engine import ids
from engine.cells import Cell, CellDirectory
from engine.errors import NotFound, Overloaded, RushError, SaleNotOpen
from engine.failpoints import failpoint
from engine.gathering import Replied
from engine.outcomes import refusal
from engine.status import Status
from engine.stores import Stores
from engine.waiting.joining import Join, Joining


class Joined(msgspec.Struct, frozen=True):
    """The number of a person, and where the ledger stood (`<epoch>-<seq>`)."""

    number: int
    is_new: bool
    ledger_seq: str


class Claimed(msgspec.Struct, frozen=True):
    """A pass that is out."""

    expires_at_ms: int
    is_new: bool
    ledger_seq: str


def joined(reply: Sequence[Any]) -> Joined:
    """What a reply of status OK or REPLAYED to a join says."""
    return Joined(int(reply[2]), reply[0] == Status.OK, reply[1].decode())


class QueueCalls:
    """The waiting rooms of all events, as one gateway process calls them."""

    def __init__(self, stores: Stores, cells: CellDirectory) -> None:
        self._stores = stores
        self._cells = cells
        self._joining = Joining(stores)

    def ask_join(self, event_id: UUID, user_id: UUID, asserted_number: int, replied: Replied) -> bool:
        """Join with others of this loop tick, and have `replied` called with the user's id and the script's
        reply, mostly later; False, and nothing is sent, where this process has not met the event's cell yet.

        `asserted_number` is that of a signed ticket of this user and event, 0 without one. Raises NotFound,
        StoreUnavailable and Overloaded; `replied` is told what Gatherer.add says.
        """
        if not ids.is_rush_id(event_id):
            raise NotFound
        cell = self._cells.known(ids.cell_of(event_id))
        if cell is None:
            return False
        self._joining.add(cell.keys, Join(user_id.bytes, ids.text_of(user_id), asserted_number, replied))
        return True

    async def meet(self, event_id: UUID) -> None:
        """Have this process meet the event's cell; raises NotFound or a ServiceUnavailable."""
        await self._find(event_id)

    async def join(self, event_id: UUID, user_id: UUID, asserted_number: int = 0) -> Joined:
        """The person's number; the same one however often they ask.

        Raises NotFound, SaleNotOpen, or a ServiceUnavailable: whoever asks again finds out what happened.
        """
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def replied(_: str, reply: Any) -> None:
            if not answered.done():
                answered.set_result(reply)

        if not self.ask_join(event_id, user_id, asserted_number, replied):
            await self.meet(event_id)
            if not self.ask_join(event_id, user_id, asserted_number, replied):
                # So many cells were met at once that this one was forgotten again.
                raise Overloaded
        reply = await answered
        if isinstance(reply, Exception):
            raise reply
        if reply[0] not in (Status.OK, Status.REPLAYED):
            raise await self.refused(event_id, reply)
        return joined(reply)

    async def leave(self, event_id: UUID, user_id: UUID, number: int, place: int) -> str:
        """Give a place up; where the ledger stands then. `place` is 0 before the draw of a lottery.

        Raises NotFound where this person has no such place (any more), or a ServiceUnavailable.
        """
        keys = (await self._find(event_id)).keys
        reply = await self._stores.run(
            "leave",
            keys.waiting_room,
            user_id.bytes,
            str(user_id),
            number,
            place,
        )
        failpoint("calls.after_leave")
        if reply[0] != Status.OK:
            raise await self.refused(event_id, reply)
        at: str = reply[1].decode()
        return at

    async def claim(self, event_id: UUID, user_id: UUID, number: int, place: int) -> Claimed:
        """The pass of a person who is served; the one that is out where they have it already.

        Raises NotFound, SaleNotOpen, InvalidState (whose `status` is `waiting` or `admitted`), or a
        ServiceUnavailable.
        """
        keys = (await self._find(event_id)).keys
        reply = await self._stores.run(
            "claim",
            keys.waiting_room,
            user_id.bytes,
            str(user_id),
            number,
            place,
        )
        failpoint("calls.after_claim")
        if reply[0] not in (Status.OK, Status.REPLAYED):
            raise await self.refused(event_id, reply)
        return Claimed(int(reply[2]), reply[0] == Status.OK, reply[1].decode())

    async def refused(self, event_id: UUID, reply: Sequence[Any]) -> RushError:
        """The exception for a reply that grants nothing."""
        status = Status(reply[0])
        if status == Status.NOT_OPEN:
            cell_id = ids.cell_of(event_id)
            if await self._cells.is_closed(cell_id):
                return SaleNotOpen(details={"status": "ended", "opens_at": None})
            await self._cells.wake_recovery(cell_id)
        return refusal(status, reply[1].decode(), reply[2:], self._stores.settings)

    async def _find(self, event_id: UUID) -> Cell:
        if not ids.is_rush_id(event_id):
            raise NotFound
        cell_id = ids.cell_of(event_id)
        return self._cells.known(cell_id) or await self._cells.find(cell_id)
