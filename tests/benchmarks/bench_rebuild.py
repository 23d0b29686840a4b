"""How long a large sale takes to come back into an empty Redis, and what another sale notices of it.

    python -m tests.benchmarks.bench_rebuild [--confirmed 1000000] [--holds 100000] [--rate 300]

Postgres is given the bookings by SQL. Then Redis is emptied, scripts and all, while recovery, relay and
expiry work in a process of their own. Printed are the seconds until the large sale sells, until all of its
records are back, and until the small one sells; the time of the small one's reservations before and
meanwhile; the longest that Redis was busy with one command; and the CPU seconds of each part, which tell more
than the clock where the machine has other work: what comes back in one thread takes no less than their sum.
"""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import uvloop

from engine import ids
from engine.audit_round import QuickAuditor
from engine.bookings import Bookings
from engine.errors import ServiceUnavailable
from engine.settings import Settings, child_environment, project_root
from rush.migrate import migrate
from tests.benchmarks.carrier import cpu_s_of
from tests.integration.kit import Event, Rig, insert_event, open_rig
from tests.stores import PostgresServer, RedisServer, run_aside

BEFORE_S = 10.0
POLL_S = 0.02
GIVEN_UP_S = 600.0
SLOW_US = 1_000
INSERT_ROWS = 100_000

_INSERT = """
WITH made AS (
    INSERT INTO bookings (id, event_id, user_id, status, version, fingerprint, quantity, total_minor,
        currency, expires_at, confirmed_at, confirmation_code, ledger_epoch, ledger_seq, created_at)
    SELECT ($1 || substr('89ab', 1 + (random() * 3.99)::int % 4, 1) || substr(md5(random()::text), 1, 3)
            || '-' || substr(md5(random()::text), 1, 12))::uuid,
        $2, gen_random_uuid(), $3, CASE $3 WHEN 'confirmed' THEN 2 ELSE 1 END, md5(n::text), 2, 0, 'GBP',
        date_trunc('milliseconds', now()) + interval '1 hour',
        CASE $3 WHEN 'confirmed' THEN date_trunc('milliseconds', now()) END,
        CASE $3 WHEN 'confirmed' THEN upper(substr(md5(n::text), 1, 10)) END,
        1, $5::bigint + n, date_trunc('milliseconds', now())
    FROM generate_series(1, $4::bigint) n
    RETURNING id
)
INSERT INTO booking_items (booking_id, zone_id, quantity, unit_price_minor)
SELECT made.id, zone_id, 1, 0 FROM made, unnest($6::uuid[]) AS zone_id
"""


async def fill(rig: Rig, confirmed: int, holds: int) -> Event:
    """An event with so many bookings in Postgres, each of one seat in two zones; Redis has nothing of it."""
    count = confirmed + holds
    event = await insert_event(rig.pool, [count + 1_000_000, count + 1_000_000], publish=False)
    prefix = str(ids.make_id(*event.cell, 0))[:19]
    done = 0
    for status, rows in (("confirmed", confirmed), ("reserved", holds)):
        left = rows
        while left:
            some = min(left, INSERT_ROWS)
            await rig.pool.execute(
                _INSERT, prefix, event.id, status, some, done, event.zones, timeout=GIVEN_UP_S
            )
            left, done = left - some, done + some
    await rig.pool.execute(
        "UPDATE seat_zones SET confirmed = $2, reserved = $3, available_seats = capacity - $2 - $3 "
        "WHERE event_id = $1",
        event.id,
        confirmed,
        holds,
    )
    await rig.pool.execute("VACUUM (ANALYZE) bookings", timeout=GIVEN_UP_S)
    await rig.pool.execute("VACUUM (ANALYZE) booking_items", timeout=GIVEN_UP_S)
    await rig.pool.execute(
        "INSERT INTO cells (event_ref, cell, event_id, epoch, seq) VALUES ($1, $2, $3, 1, $4)",
        *event.cell,
        event.id,
        done,
    )
    return event


class Crowd:
    """Reservations of one event at a fixed rate, each timed from when it was due."""

    def __init__(self, bookings: Bookings, event: Event, rate: int) -> None:
        self._bookings, self._event, self._rate = bookings, event, rate
        self._asked: set[asyncio.Task[None]] = set()
        self.took_s: list[float] = []
        self.refused = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Press until `stop`."""
        due_s = time.monotonic()
        while not stop.is_set():
            due_s += 1 / self._rate
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            task = asyncio.create_task(self._press(due_s))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
        await asyncio.gather(*self._asked)

    async def _press(self, due_s: float) -> None:
        try:
            await self._bookings.reserve(uuid4(), self._event.items(), None)
        except ServiceUnavailable:
            self.refused += 1
        else:
            self.took_s.append(time.monotonic() - due_s)

    def __str__(self) -> str:
        took_ms = sorted(1000 * each for each in self.took_s)

        def at(share: float) -> float:
            return took_ms[min(len(took_ms) - 1, int(share * len(took_ms)))]

        return (
            f"{len(took_ms):,} reservations, P50 {at(0.5):.1f} P99 {at(0.99):.1f} max {took_ms[-1]:.1f} ms; "
            f"{self.refused:,} answered 503"
        )


async def sells(bookings: Bookings, event: Event, began_s: float) -> float:
    """The seconds until a reservation of the event is granted."""
    while True:
        try:
            await bookings.reserve(uuid4(), event.items(), None)
            return time.monotonic() - began_s
        except ServiceUnavailable:
            await asyncio.sleep(POLL_S)


async def crowd_for(bookings: Bookings, event: Event, rate: int, seconds: float) -> Crowd:
    """A crowd that pressed for so long."""
    crowd, stop = Crowd(bookings, event, rate), asyncio.Event()
    pressing = asyncio.create_task(crowd.run(stop))
    await asyncio.sleep(seconds)
    stop.set()
    await pressing
    return crowd


async def slowest_ms(rig: Rig) -> tuple[float, str]:
    """The longest that Redis was busy with one command since its slow log was emptied, and which."""
    entries = await rig.redis.slowlog_get(100_000)
    slowest = max(entries, key=lambda entry: entry["duration"], default=None)
    if slowest is None:
        return 0.0, "none"
    words = slowest["command"].split(b" ")[:2]
    names = {script.sha: name for name, script in rig.stores.scripts.items()}
    return slowest["duration"] / 1000, names.get(words[-1].decode(errors="replace"), words[0].decode())


async def measure(rig: Rig, pids: dict[str, int], options: argparse.Namespace) -> None:
    """All of it."""
    large = await fill(rig, options.confirmed, options.holds)
    small = await insert_event(rig.pool, [5_000_000], publish=True)
    settings = child_environment(rig.settings)
    workers = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rush", "work", "recovery", "relay", "expiry", "publisher",
        env=settings, cwd=project_root(), stdout=sys.stderr,
    )  # fmt: skip
    pids = pids | {"workers": workers.pid}

    def cpu_s() -> dict[str, float]:
        return {name: cpu_s_of(pid) for name, pid in pids.items()}

    def spent(since: dict[str, float], until: dict[str, float]) -> str:
        return ", ".join(f"{name} {until[name] - since[name]:.1f}" for name in pids)

    try:
        bookings = await rig.gateway()
        await sells(bookings, small, time.monotonic())
        while await rig.redis.hget(large.keys.sale, "epoch") is None or await rig.redis.hexists(
            large.keys.sale, "loaded"
        ):
            await asyncio.sleep(POLL_S)
        before = await crowd_for(bookings, small, options.rate, BEFORE_S)
        await rig.caught_up(small)
        await rig.redis.config_set("slowlog-max-len", 100_000)
        await rig.redis.config_set("slowlog-log-slower-than", SLOW_US)
        await rig.redis.flushall(asynchronous=True)
        await rig.redis.script_flush()
        await rig.redis.slowlog_reset()
        began_s, at_first = time.monotonic(), cpu_s()
        selling = asyncio.create_task(sells(bookings, large, began_s))
        small_s = await sells(bookings, small, began_s)
        meanwhile, stop = Crowd(bookings, small, options.rate), asyncio.Event()
        pressing = asyncio.create_task(meanwhile.run(stop))
        selling_s, at_selling = await selling, cpu_s()
        while await rig.redis.hexists(large.keys.sale, "loaded"):
            await asyncio.sleep(POLL_S)
        complete_s, at_last = time.monotonic() - began_s, cpu_s()
        stop.set()
        await pressing
        duration_ms, command = await slowest_ms(rig)
        load = os.getloadavg()[0]
        print(f"{options.confirmed:,} confirmed bookings and {options.holds:,} holds, load {load:.1f}")
        print(f"  the small sale sells again after {small_s:.1f} s")
        print(f"  the large sale sells again after {selling_s:.1f} s, complete after {complete_s:.1f} s")
        print(f"  CPU seconds until it sells: {spent(at_first, at_selling)}")
        print(f"  CPU seconds from then on:   {spent(at_selling, at_last)}")
        print(f"  the small sale before:    {before}")
        print(f"  the small sale meanwhile: {meanwhile}")
        print(f"  Redis was busy with one command for {duration_ms:.1f} ms at most ({command})")
        await rig.caught_up(large)
        await rig.caught_up(small)
        for _ in range(2):
            report = await QuickAuditor(rig.stores).run()
            found = [*report.violations, *report.problems] or "clean"
            print(f"  quick audit: {found}, {report.seconds:.2f} s")
    finally:
        workers.terminate()
        await workers.wait()


async def run(settings: Settings, pids: dict[str, int], options: argparse.Namespace) -> None:
    """On stores of its own."""
    async with open_rig(settings) as rig:
        await measure(rig, pids, options)


def main() -> None:
    """Start the servers, measure, print."""
    parser = argparse.ArgumentParser(description="How long a large sale takes to come back")
    parser.add_argument("--confirmed", type=int, default=1_000_000)
    parser.add_argument("--holds", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=300, help="reservations a second of another sale")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Where Postgres must run as another user, that user passes through.
        Path(folder).chmod(0o711)
        redis, postgres = RedisServer(Path(folder) / "redis"), PostgresServer(Path(folder) / "postgres")
        try:
            redis.start()
            postgres.start()
            run_aside(migrate(Settings(env="development", database_url=postgres.url)))
            settings = Settings(
                env="development",
                redis_url=redis.url,
                database_url=postgres.url,
                jwt_secret="b" * 32,
                data_dir=str(Path(folder) / "data"),
            )
            print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
            uvloop.run(run(settings, {"Redis": redis.pid, "Postgres": postgres.pid}, options))
        finally:
            redis.kill()
            postgres.kill()


if __name__ == "__main__":
    main()
