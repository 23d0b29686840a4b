"""The mutation gate: a checker that finds nothing is worth nothing, so bugs are planted that it must find.

    python -m tests.drills.mutation_gate [--seeds 20] [--only WORD] [--keep]

Each bug is put into a copy of the source, the processes run that copy, and its scene is played, seed after
seed, until the checker finds a violation. The source as it is plays every scene as well, and must be clean.
Printed is the table: the bug, the seed that caught it, the rules that were broken. The exit status is 1 if a
bug was not caught or the source as it is was not clean.
"""

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import msgspec
import redis.asyncio

from tests.drills.checker import check, gather
from tests.drills.checker_queue import check_queue, settled_queue
from tests.drills.checker_report import Report
from tests.drills.clients import Load
from tests.drills.history import Run, write_run
from tests.drills.mutation_scenes import ANTIDOTE, ARMED, SCENES, WITH_QUEUE, Stage
from tests.drills.mutations import MUTATIONS, Mutation, copy_source, plant
from tests.drills.organizer import Organizer
from tests.drills.queue_crowd import QueueCrowd
from tests.drills.stack import Stack, open_stack
from tests.drills.watch import Watch

SEEDS_MAX = 20
WARM_UP_S = 0.3
CALM_S = 0.4
FINISH_MAX_S = 6.0
QUIET_MAX_S = 8.0
CONTROL_QUIET_MAX_S = 30.0
"""The source as it is gets the time that a busy machine takes."""
SETTINGS = {"hot_line_timeout_ms": 500}

EMPTY = """
DO $$ BEGIN EXECUTE (
    SELECT 'TRUNCATE ' || string_agg(quote_ident(tablename), ', ') || ' CASCADE'
    FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations'
); END $$
"""


class Caught(msgspec.Struct):
    """What became of one bug."""

    name: str
    scene: str
    seed: int | None
    rules: list[str]
    first: str
    seconds: float


async def begin(stack: Stack, source: Path, scene: str, folder: Path) -> None:
    """Empty both stores and start every process from that source."""
    for member in stack.members.values():
        member.kill()
    await stack.drop_other_redis()
    if not stack.redis.is_running:
        await stack.redis.start_async()
    client = redis.asyncio.Redis.from_url(stack.redis.url)
    await client.flushall()
    await client.script_flush()
    await client.aclose()
    connection = await asyncpg.connect(stack.postgres.url)
    await connection.execute(ANTIDOTE)
    await connection.execute(EMPTY)
    await connection.close()
    for member in stack.members.values():
        member.run_from(source)
    start(stack, scene, folder)
    await stack.until_ready()


def start(stack: Stack, scene: str, folder: Path) -> None:
    """Start every process that does not run, those with a fail point that the scene arms."""
    kind, failpoint = ARMED.get(scene, ("", ""))
    for member in stack.members.values():
        if kind and member.name.startswith(kind):
            member.kill()
            member.extra = {"RUSH_FAILPOINT": f"{failpoint}:{folder}.struck"}
        member.start()


async def play(stack: Stack, folder: Path, seed: int, scene: str, quiet_max_s: float) -> Report:
    """One event, load on it, the scene, a quiet time, and the verdict."""
    folder.mkdir(parents=True)  # noqa: ASYNC240 - one call, on a local disk
    organizer = Organizer(stack)
    event = await organizer.put_on_sale(seed)
    crowd = QueueCrowd(stack, folder, seed) if scene in WITH_QUEUE else None
    if crowd is not None:
        await crowd.start(organizer)
    organizer.close()
    run = Run(seed, scene, [event], began_ns=time.monotonic_ns())
    watch, load = Watch(stack, event, folder), Load(stack, event, folder, seed)
    stage = Stage(stack, event, load, run, 0.0, crowd.facts.event if crowd else "")
    stage.folder = folder
    try:
        load.start()
        await asyncio.sleep(WARM_UP_S)
        await SCENES[scene](stage)
        await stack.heal()
        await asyncio.sleep(CALM_S)
        if crowd is not None:
            await crowd.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(load.stop(), quiet_max_s if quiet_max_s > FINISH_MAX_S else FINISH_MAX_S)
    finally:
        await load.close()
        if crowd is not None:
            await crowd.close()
    client = redis.asyncio.Redis.from_url(stack.redis.url)
    connection = await asyncpg.connect(stack.postgres.url)
    try:
        write_run(folder, run)
        # While the watcher goes on: what happens now is part of it.
        await gather(folder, lambda tag: client, connection, quiet_max_s)
        await watch.close()
        report = check(await gather(folder, lambda tag: client, connection, 1.0))
        if crowd is not None:
            queue = await settled_queue(crowd.facts.event, client, connection, quiet_max_s)
            check_queue(crowd.facts, queue, run, report)
        return report
    finally:
        await client.aclose()
        await connection.close()


async def hunt(stack: Stack, folder: Path, mutation: Mutation, seeds: int) -> Caught:
    """Play the bug's scene until it is caught."""
    began_s = time.monotonic()
    source = copy_source(folder / "source")
    plant(mutation, source)
    rules: list[str] = []
    first = ""
    caught_by = None
    for seed in range(1, seeds + 1):
        run_folder = folder / f"seed-{seed}"
        try:
            await begin(stack, source, mutation.scene, run_folder)
            report = await play(stack, run_folder, seed, mutation.scene, QUIET_MAX_S)
        except AssertionError as error:
            # It does not even come up.
            rules, first = ["does not run"], str(error).partition("\n")[0]
        else:
            rules = list(report.found)
            first = report.violations[0].text if report.violations else ""
        if rules:
            caught_by = seed
            break
    return Caught(mutation.name, mutation.scene, caught_by, rules, first, time.monotonic() - began_s)


async def control(stack: Stack, folder: Path, scene: str) -> list[str]:
    """The source as it is in that scene; what was found."""
    start(stack, scene, folder)
    report = await play(stack, folder, 1, scene, CONTROL_QUIET_MAX_S)
    return [] if report.is_clean else list(report.lines())


async def gate(folder: Path, seeds: int, only: str) -> bool:
    """All of it; whether it held."""
    began_s = time.monotonic()
    chosen = [mutation for mutation in MUTATIONS if only in mutation.name or only == mutation.scene]
    is_good = True
    async with open_stack(folder / "stack", settings=SETTINGS) as stack:
        for scene in dict.fromkeys(mutation.scene for mutation in chosen):
            scene_s = time.monotonic()
            found = await control(stack, folder / f"control-{scene}", scene)
            is_good = is_good and not found
            print(f"as it is   {scene:24} {'CLEAN' if not found else 'NOT CLEAN'}", end="")
            print(f"  {time.monotonic() - scene_s:4.1f} s", *found, sep="\n" if found else "", flush=True)
        for number, mutation in enumerate(chosen):
            caught = await hunt(stack, folder / f"bug-{number}", mutation, seeds)
            is_good = is_good and caught.seed is not None
            seed = f"seed {caught.seed}" if caught.seed else "NOT CAUGHT"
            print(f"{caught.name:50} {caught.scene:22} {seed:10} {caught.seconds:5.1f} s  ", end="")
            print(", ".join(caught.rules), f"\n    {caught.first}", flush=True)
    print(f"{len(chosen)} bugs in {time.monotonic() - began_s:.0f} s: {'HELD' if is_good else 'FAILED'}")
    return is_good


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX, help="how often each bug is tried")
    parser.add_argument("--only", default="", help="bugs whose name has this in it, or of this scene")
    parser.add_argument("--keep", action="store_true", help="keep what the runs wrote down")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mutations-"))
    try:
        return 0 if asyncio.run(gate(folder, arguments.seeds, arguments.only)) else 1
    finally:
        if arguments.keep:
            print(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
