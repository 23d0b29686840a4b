"""The lottery: draws, once the entrants of a waiting room are frozen and the named public round is known.

Any number may run: what one has done the others find done.
"""

import asyncio
import logging
from collections import Counter

from engine.errors import RushError
from engine.hotline import RedisReplyError
from engine.ids import CellId
from engine.keys import tag
from engine.scripts import ScriptFailed
from engine.stores import POSTGRES_ERRORS, Stores
from engine.waiting.draw import DrawBroken, Draws, Stage
from observability.metrics import gauge
from workers.backoff import Backoff, sleep_unless

log = logging.getLogger(__name__)
_undrawn = {why: gauge("lotteries_undrawn", why=why) for why in ("round", "redis", "broken")}

INTERVAL_S = 0.5
_WHY = {
    Stage.OPEN: "",
    Stage.AWAITS_RANDOMNESS: "round",
    Stage.AWAITS_REDIS: "redis",
    Stage.DRAWN: "",
}
"""What a draw waits for, as the metric says it."""


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
        undrawn: Counter[str] = Counter()
        for cell_id in due:
            try:
                stages[cell_id] = await self._draws.advance(cell_id)
                undrawn[_WHY[stages[cell_id]]] += 1
            except (DrawBroken, ScriptFailed, RedisReplyError) as error:
                self._say(cell_id, str(error))
                undrawn["broken"] += 1
            except RushError as error:
                # Fenced, or Redis is away: the others may be on another node.
                log.debug("%s is not drawn yet: %s", tag(cell_id), error)
                undrawn["redis"] += 1
        for why, shown in _undrawn.items():
            shown.set(undrawn[why])
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
