"""How those who were let in stand: one small look at Redis for each, remembered for a second."""

import time

from engine.booking import parse_record
from engine.errors import Fenced, StoreUnavailable
from engine.hotline import RedisReplyError
from engine.ids import CellId
from engine.keys import CellKeys
from engine.stores import Stores
from engine.waiting.state import Standing
from engine.waiting.tickets import Ticket

REMEMBERED_S = 1.0
REMEMBERED_MAX = 20_000


class Standings:
    """Who has a pass, who may claim one, whose place has ended."""

    def __init__(self, stores: Stores) -> None:
        self._line = stores.line
        self._known: dict[tuple[CellId, bytes, int], tuple[float, Standing]] = {}

    def known(self, ticket: Ticket) -> Standing | None:
        """What was read within the last second; else there is `find`."""
        found = self._known.get((ticket.cell_id, ticket.user, ticket.number))
        return found[1] if found is not None and time.monotonic() - found[0] < REMEMBERED_S else None

    def forget(self, ticket: Ticket) -> None:
        """Read anew: the person has just done something."""
        self._known.pop((ticket.cell_id, ticket.user, ticket.number), None)

    async def find(self, ticket: Ticket) -> Standing:
        """How the person stands, where the view cannot know; raises a ServiceUnavailable."""
        try:
            standing = await self._read(ticket)
        except RedisReplyError as error:
            raise StoreUnavailable from error
        if len(self._known) >= REMEMBERED_MAX:
            self._known.clear()
        self._known[ticket.cell_id, ticket.user, ticket.number] = (time.monotonic(), standing)
        return standing

    async def _read(self, ticket: Ticket) -> Standing:
        keys, user = CellKeys(ticket.cell_id), str(ticket.user_id)
        asked = [
            self._line.call("HGET", keys.sale, "epoch"),
            self._line.call("HGET", keys.places, ticket.user),
            self._line.call("ZSCORE", keys.passes, user),
            self._line.call("HGET", keys.spent, user),
        ]
        epoch, number, expires_at_ms, booking_id = [await reply for reply in asked]
        if epoch is None:
            # What a cell that is not open holds says nothing.
            raise Fenced
        if number is None or int(number) != ticket.number:
            return "gone"
        now_ms = time.time() * 1000
        if expires_at_ms is not None:
            # Who let a pass run out has lost the place, also where nobody has cleared it away yet.
            return "admitted" if float(expires_at_ms) > now_ms else "gone"
        if booking_id is None:
            return "served"
        text = await self._line.call("GET", keys.booking(booking_id.decode()))
        if text is None:
            return "admitted"
        booking = parse_record(text)
        is_held = booking.status == "reserved" and booking.expires_at_ms > now_ms
        return "admitted" if is_held or booking.status == "confirmed" else "served"
