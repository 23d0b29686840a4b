"""The line that a run prints each second."""

import time

from engine.errors import ServiceUnavailable
from engine.ids import cell_of
from engine.keys import CellKeys
from engine.redis_clients import REDIS_ERRORS
from engine.stores import POSTGRES_ERRORS, Stores
from loadtest.tally import Bucket, Tally
from loadtest.verdict import percentiles


class Progress:
    """What has come since the line before, and how far the relay is behind."""

    def __init__(self, tally: Tally, stores: Stores) -> None:
        self._tally = tally
        self._stores = stores
        self._start_s = time.monotonic()
        self._before = (self._start_s, 0, 0)

    async def line(self) -> str:
        """Seconds, people, answers, P99 of the last full second, relay lag."""
        tally = self._tally
        now_s = time.monotonic()
        then_s, arrived, answered = self._before
        answers = sum(tally.answers.values())
        self._before = (now_s, tally.arrived, answers)
        gone_s = max(now_s - then_s, 0.001)
        latest = tally.slices[max(tally.slices)] if tally.slices else Bucket()
        arrivals = (tally.arrived - arrived) / gone_s
        return (
            f"{now_s - self._start_s:5.0f} s  arrived {tally.arrived:>8,} ({arrivals:>6,.0f}/s)"
            f"  under way {tally.in_flight:>6,}  answers {(answers - answered) / gone_s:>6,.0f}/s"
            f"  accepted {tally.accepted:>7,}  refused {sum(tally.refusals.values()):>8,}"
            f"  errors {sum(tally.errors.values()):,}  P99 {percentiles(latest.latencies_ms)[2]:,.0f} ms"
            f"  relay lag {await self._lag()}"
        )

    async def _lag(self) -> str:
        """Entries that are not in Postgres yet."""
        cell_id = cell_of(self._tally.plan.event_id)
        try:
            live = await self._stores.redis.hget(CellKeys(cell_id).sale, "seq")
            durable = await self._stores.pool.fetchval(
                "SELECT seq FROM cells WHERE event_ref = $1 AND cell = $2", *cell_id
            )
        except (*POSTGRES_ERRORS, *REDIS_ERRORS, ServiceUnavailable):
            return "?"
        return f"{max(0, int(live or 0) - int(durable or 0)):,}"
