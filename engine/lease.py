"""A lease: advisory locks in Postgres that a stopped process loses.

The locks belong to a session which Postgres ends when it has been silent for a few seconds. A process
that lives says something every second; one that was stopped (SIGSTOP, a suspended machine) does not, and
when it wakes up it finds its session gone. Nothing's correctness rests on it: the lease only saves work
from being done twice, the compare-and-set of the offset and the epochs decide.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

import asyncpg

from engine.failpoints import failpoint
from engine.ids import CellId
from engine.settings import Settings
from engine.stores import POSTGRES_ERRORS, connect_postgres

HEARTBEAT_INTERVAL_S = 1.0
HEARTBEAT_TIMEOUT_S = 3.0
SILENCE_MAX_MS = 5_000

RELAY_LOCKS = 0x72756C79
"""First key of the relay's locks, the second is the shard."""
RECOVERY_LOCKS = 0x72756C76
"""First key of recovery's lock, the second is 0."""
AUDIT_LOCKS = 0x72756C61
"""First key of the auditor's lock, the second is 0."""
REBUILD_LOCKS = 0x72756C62
"""First key of the lock of who rebuilds a cell on an operator's behalf, the second is `rebuild_lock`."""


def rebuild_lock(cell_id: CellId) -> int:
    """The number of a cell among REBUILD_LOCKS. Two cells may share one: then one waits for the other."""
    return (cell_id.event_ref ^ cell_id.cell) & 0x7FFFFFFF


class Lease:
    """The session that holds a worker's locks: `async with Lease(settings, "relay") as lease`."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._connection: asyncpg.Connection | None = None
        self._using = asyncio.Lock()
        self._heart: asyncio.Task[None] | None = None
        self.is_lost = False

    async def __aenter__(self) -> Self:
        self._connection = await connect_postgres(self._settings, f"{self._name} lease")
        await self._connection.execute(f"SET idle_session_timeout = {SILENCE_MAX_MS}")
        self._heart = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._heart is not None:
            self._heart.cancel()
        if self._connection is not None:
            self._connection.terminate()

    async def take(self, family: int, numbers: list[int]) -> list[int]:
        """Those of these locks that were free; they are held until the lease ends."""
        assert self._connection is not None
        try:
            async with self._using:
                rows = await self._connection.fetch(
                    "SELECT number FROM unnest($2::int[]) AS number WHERE pg_try_advisory_lock($1, number)",
                    family,
                    numbers,
                )
                failpoint("lease.after_taking")
        except POSTGRES_ERRORS:
            self.is_lost = True
            raise
        return [row["number"] for row in rows]

    async def listen(self, channel: str, wake: Callable[[], None]) -> None:
        """Call `wake` for every NOTIFY on that channel."""
        assert self._connection is not None
        async with self._using:
            await self._connection.add_listener(channel, lambda *_: wake())

    async def _beat(self) -> None:
        assert self._connection is not None
        try:
            while True:
                await asyncio.sleep(HEARTBEAT_INTERVAL_S)
                async with self._using:
                    await self._connection.execute("SELECT 1", timeout=HEARTBEAT_TIMEOUT_S)
        except POSTGRES_ERRORS:
            self.is_lost = True
