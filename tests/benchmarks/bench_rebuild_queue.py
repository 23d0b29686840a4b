"""How long a large waiting room takes to come back into an empty Redis, and how much memory a person takes.

    python -m tests.benchmarks.bench_rebuild_queue [--people 1000000] [--lottery] [--rounds 3]

Postgres is given the places by SQL: one in twenty has left, sixty thousand have spent a pass, a thousand have
one that is out. Then recovery's hands rebuild the cell, several times. Printed are the seconds until it is
open, the CPU seconds of each part, which tell more than the clock where the machine has other work, the
longest that Redis was busy with one command, and the memory of its keys for each person.
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import uvloop

from engine.lift import Lifter
from engine.settings import Settings
from rush.migrate import migrate
from tests.benchmarks.bench_rebuild import slowest_ms
from tests.benchmarks.carrier import cpu_s_of
from tests.integration.kit import Event, Rig, insert_event, open_rig
from tests.stores import PostgresServer, RedisServer, run_aside

GIVEN_UP_S = 600.0
SPENT, OUT = 60_000, 1_000
WAVE_PEOPLE, WAVE_MS = 25, 250
KEY = bytes(range(32))

_PLACES = """
INSERT INTO queue_places (event_ref, cell, number, user_id, joined_at, ended_at)
SELECT $1, $2, n, gen_random_uuid(), now() - interval '1 hour', CASE WHEN n % 20 = 0 THEN now() END
FROM generate_series(1, $3::int) n
"""
_PASSES = """
INSERT INTO queue_passes (event_ref, cell, user_id, number, place, claimed_at, expires_at, booking_id)
SELECT event_ref, cell, user_id, number, number, now(), now() + interval '5 minutes',
    CASE WHEN number <= $3 THEN gen_random_uuid() END
FROM queue_places WHERE event_ref = $1 AND cell = $2 AND number <= $4 AND ended_at IS NULL
"""
_WAVES = """
INSERT INTO queue_waves (event_ref, cell, to_place, from_place, people, served_at)
SELECT $1, $2, n * $4::int, (n - 1) * $4::int + 1, $4::int,
    now() - make_interval(secs => ($3::int / $4::int - n) * $5::int / 1000.0)
FROM generate_series(1, $3::int / $4::int) n
"""


async def fill(rig: Rig, people: int, *, is_lottery: bool) -> Event:
    """An event with so many people in Postgres; Redis has nothing of it."""
    mode = {"mode": "lottery", "opens_at": "2026-01-01T00:00:00Z"} if is_lottery else {"mode": "open"}
    event = await insert_event(rig.pool, [SPENT], waiting_room=mode)
    served = min(people, SPENT + OUT)
    await rig.pool.execute(_PLACES, *event.cell, people, timeout=GIVEN_UP_S)
    await rig.pool.execute(_PASSES, *event.cell, min(people, SPENT), served, timeout=GIVEN_UP_S)
    await rig.pool.execute(_WAVES, *event.cell, served, WAVE_PEOPLE, WAVE_MS, timeout=GIVEN_UP_S)
    await rig.pool.execute(
        "UPDATE waiting_rooms SET tail = $3, serving = $4::int, admitted = $4::int "
        "WHERE event_ref = $1 AND cell = $2",
        *event.cell,
        people,
        served,
    )
    if is_lottery:
        await rig.pool.execute(
            "UPDATE waiting_rooms SET entrants = tail, frozen_at = now(), drawn_at = now(), key = $1", KEY
        )
    await rig.pool.execute("UPDATE cells SET epoch = 1, seq = 1")
    await rig.pool.execute("VACUUM (ANALYZE) queue_places", timeout=GIVEN_UP_S)
    return event


async def measure(rig: Rig, pids: dict[str, int], options: argparse.Namespace) -> None:
    """All of it."""
    event = await fill(rig, options.people, is_lottery=options.lottery)
    keys = event.keys
    async with rig.pool.acquire() as connection:
        lifter = Lifter(rig.stores, connection, rig.redis, lambda _: True)
        await rig.redis.script_load(rig.stores.scripts["edit"].source)
        for script in rig.stores.scripts.group("recovery"):
            await rig.redis.script_load(script.source)
        empty = int((await rig.redis.info("memory"))["used_memory"])
        for _ in range(options.rounds):
            await rig.redis.flushall(asynchronous=False)
            await rig.redis.config_set("slowlog-log-slower-than", 500)
            await rig.redis.slowlog_reset()
            before = {name: cpu_s_of(pid) for name, pid in pids.items()}
            began_s = time.monotonic()
            await lifter.rebuild(event.cell, await lifter.look())
            wall_s = time.monotonic() - began_s
            spent = ", ".join(f"{name} {cpu_s_of(pid) - before[name]:.1f}" for name, pid in pids.items())
            used = int((await rig.redis.info("memory"))["used_memory"]) - empty
            living = await rig.redis.hlen(keys.places)
            busy_ms, command = await slowest_ms(rig)
            assert await rig.redis.hget(keys.sale, "epoch")
            print(
                f"{options.people:,} numbers, {living:,} people: open after {wall_s:.1f} s; "
                f"CPU seconds: {spent}; {used / living:.0f} bytes a person; "
                f"Redis busy for {busy_ms:.1f} ms at most ({command})",
                flush=True,
            )


async def run(settings: Settings, pids: dict[str, int], options: argparse.Namespace) -> None:
    """On stores of its own."""
    async with open_rig(settings) as rig:
        await measure(rig, pids, options)


def main() -> None:
    """Start the servers, measure, print."""
    parser = argparse.ArgumentParser(description="How long a large waiting room takes to come back")
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--lottery", action="store_true", help="places by a draw")
    parser.add_argument("--rounds", type=int, default=3)
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
            load = os.getloadavg()[0]
            version = platform.python_version()
            print(f"{platform.machine()}, {os.cpu_count()} cores, Python {version}, load {load:.1f}")
            pids = {"recovery": os.getpid(), "Redis": redis.pid, "Postgres": postgres.pid}
            uvloop.run(run(settings, pids, options))
        finally:
            redis.kill()
            postgres.kill()


if __name__ == "__main__":
    main()
