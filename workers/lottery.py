"""The lottery: draws, once the entrants of a waiting room are frozen and the named public round is known.

Any number may run: what one has done the others find done.
"""

import asyncio
import logging

from engine.errors import RushError
from engine.ids import CellId
from engine.keys import tag
from engine.scripts import ScriptFailed
from engine.stores import POSTGRES_ERRORS, Stores
from engine.waiting.draw import DrawBroken, Draws, Stage
from workers.backoff import Backoff, sleep_unless

log = logging.getLogger(__name__)

INTERVAL_S = 0.5


class Lotteries:
    """The draws that are due."""

    def __init__(self, stores: Stores) -> None:
        self._draws = Draws(stores)
        self._said: dict[CellId, str] = {}
        """What is wrong with a draw is said once, not twice a second."""

    async def step(self) -> dict[CellId, Stage]:
        """Take every draw that is due as far as it goes."""
        due = await self._draws.due()
        self._said = {cell_id: said for cell_id, said in self._said.items() if cell_id in due}
        stages = {}
        for cell_id in due:
            try:
                stages[cell_id] = await self._draws.advance(cell_id)
            except (DrawBroken, ScriptFailed) as error:
                self._say(cell_id, str(error))
            except RushError as error:
                # Fenced, or Redis is away: the others may be on another node.
                log.debug("%s is not drawn yet: %s", tag(cell_id), error)
        return stages

    def _say(self, cell_id: CellId, text: str) -> None:
        if self._said.get(cell_id) != text:
            self._said[cell_id] = text
            log.error("%s cannot be drawn: %s", tag(cell_id), text)


async def run(stores: Stores, stop: asyncio.Event) -> None:
    """Draw until `stop`, through outages of either store."""
    backoff = Backoff("the lottery")
    lotteries = Lotteries(stores)
    while not stop.is_set():
        try:
            await lotteries.step()
            backoff.succeeded()
            await sleep_unless(stop, INTERVAL_S)
        except POSTGRES_ERRORS as error:
            await sleep_unless(stop, backoff.failed(error))
