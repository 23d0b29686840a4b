"""What the relay and Postgres cost for each ledger entry, and how many a second they carry.

    python -m tests.benchmarks.bench_relay [--entries 60000] [--mixed] [--people 64] [--rate 12000]
        [--rounds 3]

A cell's ledger is filled by the real scripts. Then the real relay carries it, with the publisher that empties
the outbox in the same process, alone on one core, and Postgres alone on another. Printed are entries a
second, the CPU time of that process and of all of Postgres' processes for each entry (until the outbox is
empty again; the checkpoint that writes the pages apart), the bytes of WAL, where the relay's time goes by
samples of its stack, and Postgres' share as a ratio to a bare COPY, in the same run, of the rows that stay
into tables without an index.

`--mixed`: reserve, of which every third is confirmed and every third cancelled. `--people`: people who join a
waiting room instead, so many in each entry. `--rate`: the same entries are appended at that rate while the
relay runs, as in a rush, and its greatest lag is printed as well.
"""

import argparse
import asyncio
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import uvloop

from engine.bookings import Answer, Bookings
from engine.settings import Settings, load_settings
from rush.migrate import migrate
from tests.benchmarks.carrier import carry, cpu_s_of, pin
from tests.integration.kit import Event, Rig, changed, open_rig, until
from tests.stores import PostgresServer, RedisServer, run_aside

TASKS = 400
CATCH_UP_TIMEOUT_S = 120.0
TICK_S = 0.005
POLL_S = 0.02
CAPACITY = 50_000_000


class Measured(msgspec.Struct):
    """One round; times in seconds of CPU, the rest as named."""

    entries: int
    wall_s: float
    relay_s: float
    postgres_s: float
    checkpoint_s: float
    wal_bytes: int
    copy_s: float
    lag_entries: int
    batches: int
    split: dict[str, float]
    people: int = 0


async def fill_ledger(rig: Rig, event: Event, entries: int, is_mixed: bool) -> None:
    """Entries written by the real scripts, through the one who calls them in the product."""
    bookings = await rig.gateway(changed(rig.settings, confirm_wait_ms=1))
    left = iter(range(entries // 5 * 3 if is_mixed else entries))

    async def buyer() -> None:
        for number in left:
            answer = await bookings.reserve(uuid4(), event.items(1 + number % 2), f"key-{number}")
            if is_mixed and number % 3:
                await end(bookings, answer, number)

    async def end(bookings: Bookings, answer: Answer, number: int) -> None:
        verb = bookings.confirm if number % 3 == 1 else bookings.cancel
        await verb(answer.booking.user_id, answer.booking.id)

    await asyncio.gather(*(buyer() for _ in range(TASKS)))


async def fill_with_joins(rig: Rig, event: Event, entries: int, people: int) -> None:
    """Entries of the waiting room, so many people in each."""
    keys = event.keys
    names = [keys.sale, keys.queue, keys.places, keys.gone, keys.ledger]
    left = iter(range(entries))

    async def crowd() -> None:
        for _ in left:
            users = [uuid4() for _ in range(people)]
            wishes = [part for user in users for part in (user.bytes, str(user), 0)]
            await rig.stores.run("join", names, people, *wishes)

    await asyncio.gather(*(crowd() for _ in range(TASKS // 10)))


async def put_aside(rig: Rig, event: Event) -> str:
    """Take what follows the opening out of the ledger, until the relay has nothing else to do."""
    aside = event.keys.ledger + "-aside"
    await rig.redis.rename(event.keys.ledger, aside)
    opening: Any = await rig.redis.xrange(aside, count=1)
    await rig.redis.xadd(event.keys.ledger, opening[0][1], id=opening[0][0])
    return aside


async def append_at_rate(rig: Rig, event: Event, aside: str, rate: int) -> None:
    """Write the entries again, with the ids they had, so many a second."""
    entries: Any = (await rig.redis.xrange(aside))[1:]
    started_s, written = time.monotonic(), 0
    while written < len(entries):
        await asyncio.sleep(TICK_S)
        due = min(len(entries), int((time.monotonic() - started_s) * rate))
        pipeline = rig.redis.pipeline(transaction=False)
        for id_, fields in entries[written:due]:
            pipeline.xadd(event.keys.ledger, fields, id=id_)
        await pipeline.execute()
        written = due


class Carrier:
    """The relay and the publisher in a process of their own."""

    def __init__(self, settings: Settings) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RUSH_")}
        for name in settings.__struct_fields__:
            environment["RUSH_" + name.upper()] = str(getattr(settings, name))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.bench_relay", "--carry"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._line()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def say(self) -> Any:
        """Begin, or end; what the process has to say to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return self._line()

    def close(self) -> None:
        """Kill it if it is still there."""
        self._process.kill()
        self._process.wait()


async def carried(rig: Rig, event: Event, fed: asyncio.Task[None] | None) -> tuple[float, int]:
    """Wait until the whole ledger is in Postgres: the seconds, and the greatest lag seen."""
    started_s, lag = time.monotonic(), 0
    target = await rig.position(event)
    assert target is not None
    while time.monotonic() - started_s < CATCH_UP_TIMEOUT_S:
        offset = await rig.offset(event)
        end = target
        if fed is not None:
            stream: Any = await rig.redis.xinfo_stream(event.keys.ledger)
            lag = max(lag, int(stream["last-generated-id"].partition(b"-")[2]) - offset.seq)
        if offset == end:
            return time.monotonic() - started_s, lag
        await asyncio.sleep(POLL_S)
    raise AssertionError("the relay did not catch up")


async def bare_copy_s(
    connection: asyncpg.Connection, postgres_pid: int, tables: tuple[str, ...] = ("bookings", "booking_items")
) -> float:
    """What Postgres pays for a COPY of the same rows into tables with nothing but columns."""
    sources = {}
    for table in tables:
        await connection.execute(f"CREATE TABLE bare_{table} (LIKE {table})")
        sources[table] = io.BytesIO()
        await connection.copy_from_table(table, output=sources[table], format="binary")
        sources[table].seek(0)
    before_s = cpu_s_of(postgres_pid)
    for table, source in sources.items():
        await connection.copy_to_table(f"bare_{table}", source=source, format="binary")
    return cpu_s_of(postgres_pid) - before_s


async def measure(settings: Settings, postgres: PostgresServer, options: argparse.Namespace) -> Measured:
    """One round on a fresh database."""
    async with open_rig(settings) as rig:
        worker = rig.work("recovery")
        room = {"mode": "open"} if options.people else None
        event = await rig.sale([CAPACITY], waiting_room=room)
        await worker.stop()
        if options.people:
            await fill_with_joins(rig, event, options.entries, options.people)
        else:
            await fill_ledger(rig, event, options.entries, options.mixed)
        position = await rig.position(event)
        assert position is not None
        aside = await put_aside(rig, event)
        pin(postgres.pid, options.postgres_core)
        carrier = Carrier(settings)
        try:
            await rig.pool.execute("CHECKPOINT")
            wal = await rig.pool.fetchval("SELECT pg_current_wal_lsn()::text")
            before_s = cpu_s_of(postgres.pid)
            carrier.say()
            fed = None
            if options.rate:
                fed = asyncio.create_task(append_at_rate(rig, event, aside, options.rate))
            else:
                await rig.redis.rename(aside, event.keys.ledger)
            wall_s, lag = await carried(rig, event, fed)
            await until(lambda: _is_empty(rig), "the outbox is empty")
            said = carrier.say()
        finally:
            carrier.close()
        after_s = cpu_s_of(postgres.pid)
        wal_bytes = await rig.pool.fetchval("SELECT pg_current_wal_lsn() - $1::text::pg_lsn", wal)
        await rig.pool.execute("CHECKPOINT")
        checkpoint_s = cpu_s_of(postgres.pid) - after_s
        async with rig.pool.acquire() as connection:
            tables = ("queue_places",) if options.people else ("bookings", "booking_items")
            copy_s = await bare_copy_s(connection, postgres.pid, tables)
        return Measured(
            entries=position.seq,
            wall_s=wall_s,
            relay_s=said["cpu_s"],
            postgres_s=after_s - before_s,
            checkpoint_s=checkpoint_s,
            wal_bytes=int(wal_bytes),
            copy_s=copy_s,
            lag_entries=lag,
            batches=said["batches"],
            split=said["split"],
            people=options.entries * options.people,
        )


async def _is_empty(rig: Rig) -> bool:
    return not await rig.pool.fetchval("SELECT EXISTS (SELECT FROM outbox)")


@asynccontextmanager
async def _database(postgres: PostgresServer, name: str) -> AsyncIterator[str]:
    connection = await asyncpg.connect(postgres.url_of("postgres"))
    await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE rush')
    try:
        yield postgres.url_of(name)
    finally:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await connection.close()


async def rounds(redis: RedisServer, postgres: PostgresServer, options: argparse.Namespace) -> list[Measured]:
    """All rounds, each on a database of its own."""
    found = []
    for number in range(options.rounds):
        async with _database(postgres, f"round_{number}") as url:
            settings = Settings(
                env="development",
                redis_url=redis.url,
                database_url=url,
                jwt_secret="b" * 32,
                data_dir=str(postgres.folder),
                relay_batch_entries_max=options.batch,
            )
            found.append(await measure(settings, postgres, options))
        show(found[-1:])
    return found


def show(measured: list[Measured]) -> None:
    """The medians of some rounds."""

    def median(of: Any) -> float:
        return statistics.median(of(one) for one in measured)

    def each_us(name: str) -> float:
        return median(lambda one: getattr(one, name) / one.entries * 1e6)

    split = {
        name: median(lambda one, name=name: one.split.get(name, 0.0) / one.entries * 1e6)
        for name in measured[0].split
    }
    print(
        f"{median(lambda one: one.entries / one.wall_s):6.0f} entries/s, "
        f"{median(lambda one: one.people / one.wall_s):.0f} people/s, "
        f"{median(lambda one: one.entries / one.batches):.0f} a batch, "
        f"lag at most {median(lambda one: one.lag_entries):.0f}"
    )
    print(
        f"  Postgres {each_us('postgres_s'):5.2f} µs + checkpoint {each_us('checkpoint_s'):4.2f} µs, "
        f"{median(lambda one: one.wal_bytes / one.entries):.0f} bytes of WAL; "
        f"{median(lambda one: one.postgres_s / one.copy_s):.1f} times a bare COPY"
    )
    shown = "   ".join(f"{name} {value:.2f}" for name, value in split.items())
    print(f"  relay {each_us('relay_s'):5.2f} µs: {shown}", flush=True)


def main() -> None:
    """Start the servers, measure, print."""
    parser = argparse.ArgumentParser(description="CPU of the relay and of Postgres for each ledger entry")
    parser.add_argument("--entries", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=Settings().relay_batch_entries_max)
    parser.add_argument("--mixed", action="store_true", help="confirm and cancel as well")
    parser.add_argument("--people", type=int, default=0, help="joins instead, with so many people in each")
    parser.add_argument("--rate", type=int, default=0, help="append so many a second while the relay runs")
    parser.add_argument("--relay-core", type=int, default=0)
    parser.add_argument("--postgres-core", type=int, default=1)
    parser.add_argument("--carry", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.carry:
        uvloop.run(carry(load_settings(), options.relay_core))
        return
    with tempfile.TemporaryDirectory() as folder:
        # Where Postgres must run as another user, that user passes through.
        Path(folder).chmod(0o711)
        redis, postgres = RedisServer(Path(folder) / "redis"), PostgresServer(Path(folder) / "postgres")
        try:
            redis.start()
            postgres.start()
            run_aside(migrate(Settings(env="development", database_url=postgres.url)))
            print(
                f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {options}"
            )
            measured = uvloop.run(rounds(redis, postgres, options))
        finally:
            redis.kill()
            postgres.kill()
    print("medians:")
    show(measured)


if __name__ == "__main__":
    main()
