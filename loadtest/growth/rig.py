"""A rig: stores of one size with their relay and gateway, and the way back to that size after each slice."""

import asyncio
import contextlib
import http.client
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from engine.settings import Settings
from engine.stores import Stores, connect_postgres, open_stores
from engine.tokens import TokenSigner
from loadtest.growth.crowd import CallFailed, Crowd, Held
from loadtest.growth.options import RigPlan
from loadtest.growth.processes import Process, cpu_of, cpu_us, start, start_stores
from loadtest.growth.sale import Opener, Sale, insert_sales, open_sales
from loadtest.organizer import TargetError
from loadtest.stack import free_port

CAUGHT_UP_TIMEOUT_S = 300.0
GATEWAY_TIMEOUT_S = 30.0
POLL_S = 0.01
RELOAD_S = 0.3
"""Until every process of Postgres has read its settings again."""
EPOCH = 1
TOKEN_TTL_S = 3_600
TRIM_LAG_S = 0
"""The relay trims at once what it has carried: the ledger of two minutes is no memory of holds."""


class Rig:
    """One installation. `open_rig` makes it."""

    def __init__(self, plan: RigPlan, folder: Path, settings: Settings, servers: Process) -> None:
        self.plan = plan
        self.settings = settings
        self._folder = folder
        self._children = [servers]
        self.redis_pid = 0
        self.replid = ""
        self.filled_ms = (0, 0)
        """When its holds were made: from, to."""
        self.hot: Sale
        self.crowd: Crowd
        self.stores: Stores
        self.opener: Opener
        self.relay: Process
        self.gateway: Process
        self.eye: asyncpg.Connection
        """Looks on; what its backend costs is nobody's."""

    async def start(self) -> None:
        """Put the events on sale and start what works on them."""
        self.stores = await open_stores(self.settings, "growth")
        self.eye = await connect_postgres(self.settings, "growth eye")
        await self._quiet()
        self.redis_pid = (await self.stores.redis.info("server"))["process_id"]
        self.opener = Opener(self.stores)
        self.replid = await self.opener.start()
        sales = await insert_sales(self.eye, self.plan.events, epoch=EPOCH, replid=self.replid)
        await open_sales(self.stores, sales, epoch=EPOCH)
        self.hot = sales[0]
        self.crowd = Crowd(self.stores, self.hot)
        self.relay = await self.work("relay")
        self.port = free_port()
        settings = msgspec.structs.replace(self.settings, port=self.port)
        arguments = ["rush", "serve", "--processes", "1", "--port", str(self.port)]
        self.gateway = await self._start_child("gateway", arguments, settings)

    async def _quiet(self) -> None:
        """No rewriting, no vacuuming and no checkpoint but when we say so: they are measured apart."""
        await self.stores.redis.config_set("auto-aof-rewrite-percentage", 0)
        await self.set_postgres("autovacuum = off", "checkpoint_timeout = '1h'", "max_wal_size = '64GB'")

    async def set_postgres(self, *settings: str) -> None:
        """Change settings of the whole Postgres."""
        for setting in settings:
            await self.eye.execute(f"ALTER SYSTEM SET {setting}")
        await self.eye.execute("SELECT pg_reload_conf()")
        await asyncio.sleep(RELOAD_S)

    async def _start_child(self, name: str, arguments: list[str], settings: Settings) -> Process:
        child = await start(name, arguments, settings, self._folder.with_suffix(f".{name}.log"))
        self._children.append(child)
        return child

    async def work(self, name: str, **changed: int) -> Process:
        """Start one of the workers, with some settings changed."""
        settings = msgspec.structs.replace(self.settings, ledger_trim_lag_s=TRIM_LAG_S, **changed)
        return await self._start_child(name, ["rush", "work", name], settings)

    async def close(self) -> None:
        """End all of it."""
        for child in reversed(self._children[1:]):
            await child.stop()
        if hasattr(self, "opener"):
            await self.opener.close()
        if hasattr(self, "eye"):
            self.eye.terminate()
        if hasattr(self, "stores"):
            await self.stores.close()
        await self._children[0].stop()

    # --- where things are

    async def lag(self) -> int:
        """Ledger entries of the hot event that are not in Postgres yet."""
        seq = await self.stores.redis.hget(self.hot.keys.sale, "seq")
        durable = await self.eye.fetchval(
            "SELECT seq FROM cells WHERE event_ref = $1 AND cell = $2", *self.hot.cell_id
        )
        return int(seq or 0) - int(durable)

    async def until_caught_up(self, lag_max: int = 0) -> None:
        """Wait for the relay, until so little is left to it. Raises TargetError when it takes too long."""
        deadline_s = time.monotonic() + CAUGHT_UP_TIMEOUT_S
        while await self.lag() > lag_max:
            self.relay.require_alive()
            if time.monotonic() > deadline_s:
                raise TargetError(f"{self.plan.name}: the relay does not catch up")
            await asyncio.sleep(POLL_S)

    async def backends(self, who: str) -> list[int]:
        """The Postgres processes that serve `who` (relay, gateway), or are of that kind (checkpointer)."""
        rows = await self.eye.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE $1 OR backend_type = $2",
            f"rush {who}%",
            who,
        )
        return [row["pid"] for row in rows]

    async def now_ms(self) -> int:
        """The clock of Redis."""
        seconds, microseconds = await self.stores.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def redis_us(self) -> float:
        """CPU microseconds of the Redis process so far."""
        return cpu_us(self.redis_pid)

    async def postgres_us(self, who: str) -> float:
        """CPU microseconds of the Postgres processes of `who` so far."""
        return cpu_of(await self.backends(who))

    # --- the gateway

    def list_bookings(self, users: Sequence[UUID]) -> None:
        """GET /bookings for each of these, over one connection. Blocks; raises CallFailed."""
        signer = TokenSigner(self.settings.jwt_secret)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=GATEWAY_TIMEOUT_S)
        try:
            for user_id in users:
                token = signer.sign(user_id, "user", None, ttl_s=TOKEN_TTL_S)
                connection.request("GET", "/api/v1/bookings", headers={"Authorization": f"Bearer {token}"})
                response = connection.getresponse()
                body = msgspec.json.decode(response.read())
                if response.status != 200 or len(body["data"]) != 1:
                    raise CallFailed(f"GET /bookings was answered {response.status}: {body}")
        finally:
            connection.close()

    async def until_gateway_answers(self) -> None:
        """Wait for the gateway. Raises TargetError."""
        deadline_s = time.monotonic() + GATEWAY_TIMEOUT_S
        while True:
            self.gateway.require_alive()
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            if time.monotonic() > deadline_s:
                raise TargetError("the gateway does not come up")
            await asyncio.sleep(POLL_S)

    # --- back to the size that it had

    async def forget(self, ended: Sequence[Held], confirmed: Sequence[Held]) -> None:
        """Take these bookings out of both stores, as if they had never been. All must be durable."""
        keys = self.hot.keys
        pipeline: Any = self.stores.redis.pipeline(transaction=False)
        for _, booking_id in [*ended, *confirmed]:
            pipeline.delete(keys.booking(booking_id))
        for user_id, _ in confirmed:
            pipeline.hdel(keys.buyers, str(user_id))
        await pipeline.execute()
        booking_ids = [booking_id for _, booking_id in [*ended, *confirmed]]
        await self.eye.execute("DELETE FROM booking_items WHERE booking_id = ANY($1::uuid[])", booking_ids)
        await self.eye.execute("DELETE FROM bookings WHERE id = ANY($1::uuid[])", booking_ids)
        await self.eye.execute("DELETE FROM outbox")
        await self._count_back()

    async def _count_back(self) -> None:
        """Nothing is sold any more: the seats of confirmed bookings are free."""
        for zone_id in self.hot.zone_ids:
            key = self.hot.keys.zone(zone_id)
            sold = int(await self.stores.redis.hget(key, "confirmed") or 0)
            await self.stores.redis.hincrby(key, "confirmed", -sold)
            await self.stores.redis.hincrby(key, "available", sold)
        await self.eye.execute(
            "UPDATE seat_zones SET available_seats = available_seats + confirmed, confirmed = 0 "
            "WHERE event_id = $1 AND confirmed > 0",
            self.hot.event_id,
        )

    async def vacuum(self) -> None:
        """What autovacuum would have done by now."""
        await self.eye.execute("VACUUM (ANALYZE)", timeout=CAUGHT_UP_TIMEOUT_S)


@contextlib.asynccontextmanager
async def open_rig(plan: RigPlan, folder: Path) -> AsyncIterator[Rig]:
    """A running rig without holds; nothing of it is left afterwards. Raises TargetError."""
    servers, settings = await start_stores(folder)
    rig = Rig(plan, folder, settings, servers)
    try:
        await rig.start()
        await rig.until_gateway_answers()
        yield rig
    finally:
        await rig.close()
