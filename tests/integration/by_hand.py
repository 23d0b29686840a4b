"""Recovery and relay driven step by step, to be stopped before any of their calls to a store."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg
import pytest

from engine.cluster_lines import ClusterLines
from engine.ids import CellId
from engine.lease import Lease
from engine.lift import Lifter
from engine.stores import open_redis
from tests.integration.kit import Event, Rig, until
from workers.builders import Builders
from workers.recovery import Recovery, open_lifter
from workers.relay import Relay

Hook = Callable[[str], Awaitable[None]]


class Crash(Exception):
    """The process dies here."""


class _HookedConnection(asyncpg.Connection):
    hook: Hook | None = None

    async def _ask(self, query: str) -> None:
        if self.hook is not None:
            await self.hook(" ".join(query.split())[:60])

    async def execute(self, query: str, *args: Any, **kwargs: Any) -> str:
        await self._ask(query)
        return await super().execute(query, *args, **kwargs)

    async def fetch(self, query: str, *args: Any, **kwargs: Any) -> list[Any]:
        await self._ask(query)
        return await super().fetch(query, *args, **kwargs)

    async def fetchrow(self, query: str, *args: Any, **kwargs: Any) -> Any:
        await self._ask(query)
        return await super().fetchrow(query, *args, **kwargs)

    async def fetchval(self, query: str, *args: Any, **kwargs: Any) -> Any:
        await self._ask(query)
        return await super().fetchval(query, *args, **kwargs)

    async def copy_to_table(self, table_name: str, **kwargs: Any) -> str:  # type: ignore[override]
        await self._ask(f"COPY {table_name}")
        return await super().copy_to_table(table_name, **kwargs)


def _all(cell_id: CellId) -> bool:
    return True


class ByHand:
    """One recovery with its two connections. `hook` is awaited before every call to a store."""

    def __init__(
        self, rig: Rig, connection: _HookedConnection, client: Any, hook: Hook | None = None
    ) -> None:
        self.connection = connection
        connection.hook = hook
        if hook is not None:
            execute = client.execute_command

            async def hooked(*args: Any, **options: Any) -> Any:
                await hook(" ".join(str(part) for part in args[:2])[:60])
                return await execute(*args, **options)

            client.execute_command = hooked
        [master] = rig.stores.line.masters()
        self.builders = Builders(partial(open_lifter, rig.stores, master))
        self.lifter = lifter = Lifter(rig.stores, connection, client, _all)
        self._recovery = Recovery(rig.stores, lifter, connection, client, _all, self.builders)

    def wake(self) -> None:
        """Have the cells looked at by the next step."""
        self._recovery.woken.set()

    async def step(self) -> None:
        """Look once and do what is to be done."""
        await self._recovery.step()


@contextlib.asynccontextmanager
async def recovery_by_hand(rig: Rig, hook: Hook | None = None) -> AsyncIterator[ByHand]:
    """A recovery that takes no lease, and knows of one node."""
    if isinstance(rig.stores.line, ClusterLines):
        pytest.skip("recovery by hand works on the one node there is")
    connection = await asyncpg.connect(rig.settings.database_url, connection_class=_HookedConnection)
    client = open_redis(rig.settings, single=True)
    recovery = ByHand(rig, connection, client, hook)
    try:
        yield recovery
    finally:
        await recovery.builders.close()
        connection.terminate()
        await client.aclose()


async def recover(rig: Rig, event: Event) -> None:
    """Let an undisturbed recovery finish; the cell is open then."""
    async with recovery_by_hand(rig) as recovery:

        async def is_open() -> bool:
            await recovery.step()
            position = await rig.position(event)
            return position is not None and position.epoch == (await rig.offset(event)).epoch

        await until(is_open, "the cell is open")


async def relay_all(rig: Rig, event: Event) -> None:
    """Carry the whole ledger into Postgres, then stop."""
    async with (
        Lease(rig.settings, "relay") as lease,
        contextlib.aclosing(Relay(rig.stores, lease, *rig.stores.line.masters())) as relay,
    ):

        async def is_done() -> bool:
            await relay.step()
            return await rig.position(event) == await rig.offset(event)

        await until(is_done, "the ledger is carried over")


class CrashBefore:
    """A hook that dies before the call with that number, counted from 1."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.calls: list[str] = []

    async def __call__(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) == self._number:
            raise Crash(call)


class SleepBefore:
    """A hook that stops before the call with that number until it is woken."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.calls: list[str] = []
        self.asleep = asyncio.Event()
        self.wake = asyncio.Event()

    async def __call__(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) == self._number:
            self.asleep.set()
            await self.wake.wait()
