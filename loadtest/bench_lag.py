"""How far the relay is behind while the load runs: sampled from both stores."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from uuid import UUID

from engine.errors import ServiceUnavailable
from engine.ids import cell_of
from engine.keys import CellKeys
from engine.redis_clients import REDIS_ERRORS
from engine.sql import load_queries
from engine.stores import POSTGRES_ERRORS, Stores

SAMPLE_S = 0.05
TELL_EVERY_S = 2.0
SAMPLES_MAX = 20_000

queries = load_queries("audit")


class Lag:
    """Samples until it is stopped. Seconds are an upper bound, one interval too high at most."""

    def __init__(
        self,
        stores: Stores,
        event_id: UUID,
        say: Callable[[str], None],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now_s = now_s
        self._stores = stores
        self._cell = cell_of(event_id)
        self._say = say
        self._live: deque[tuple[float, int]] = deque(maxlen=SAMPLES_MAX)
        """(moment, last entry of the ledger) of those samples that are not all durable."""
        self._durable_s: float | None = None
        """When that was read of which all is durable."""
        self.max_s = 0.0
        self.max_entries = 0
        self.now_entries = 0
        self.samples = 0
        self.is_over = False

    async def live_seq(self) -> int:
        """The last entry of the ledger."""
        return int(await self._stores.redis.hget(CellKeys(self._cell).sale, "seq") or 0)

    async def durable_seq(self) -> int:
        """The last entry that is in Postgres."""
        row = await queries.position(self._stores.pool, **self._cell._asdict())
        return int(row["seq"]) if row else 0

    async def sample(self) -> None:
        """One look."""
        asked_s = self._now_s()
        live = await self.live_seq()
        durable = await self.durable_seq()
        self._live.append((asked_s, live))
        while self._live and self._live[0][1] <= durable:
            self._durable_s, _ = self._live.popleft()
        self.now_entries = max(0, live - durable)
        self.max_entries = max(self.max_entries, self.now_entries)
        if self._live:
            # The oldest entry that is not durable was written after the last look that is.
            since_s = self._live[0][0] if self._durable_s is None else self._durable_s
            self.max_s = max(self.max_s, self._now_s() - since_s)
        self.samples += 1

    async def run(self, what: str) -> None:
        """Sample until `is_over`, with a line of progress now and then.

        It is not cancelled: a cancellation in the middle of a call may get lost in a client library.
        """
        said_s = began_s = time.monotonic()
        before = await self.live_seq()
        while not self.is_over:
            with contextlib.suppress(*POSTGRES_ERRORS, *REDIS_ERRORS, ServiceUnavailable):
                await self.sample()
                now_s = time.monotonic()
                if now_s - said_s >= TELL_EVERY_S:
                    live = await self.live_seq()
                    rate = (live - before) / (now_s - said_s)
                    self._say(
                        f"{what} {now_s - began_s:4.0f} s  {rate:>8,.0f} a second into the ledger, "
                        f"relay {self.now_entries:,} entries behind"
                    )
                    said_s, before = now_s, live
            await asyncio.sleep(SAMPLE_S)

    async def until_drained(self, timeout_s: float) -> bool:
        """Whether all that is in the ledger now gets durable in time."""
        deadline_s = time.monotonic() + timeout_s
        target = await self.live_seq()
        while await self.durable_seq() < target:
            if time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(SAMPLE_S)
        return True
