"""The checker: from what clients asked and were told, what a watcher saw, and both stores after a quiet time,
to a verdict. It is independent of the product: it imports nothing of it and reads the stores itself.

    python -m tests.drills.checker FOLDER --redis URL --postgres URL

A rule is a function that takes what it needs and a report; a part of the product that is added brings its
own, and its call stands in `check`.
"""

import argparse
import asyncio
import contextlib
import gc
import sys
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import asyncpg
import redis.asyncio

from tests.drills.checker_asked import Asked
from tests.drills.checker_durable import check_losses, check_offsets, check_promises, check_rows
from tests.drills.checker_evidence import Edit, Evidence, position_of, tag_of
from tests.drills.checker_inventory import Told, walk
from tests.drills.checker_ledger import read_ledgers
from tests.drills.checker_real_time import RealTime
from tests.drills.checker_redis import ClientOf, read_when_quiet
from tests.drills.checker_report import Report
from tests.drills.checker_state import State
from tests.drills.checker_stores import check_stores
from tests.drills.history import Event, Operation, read_entries, read_operations, read_run

POISON = "poison"
"""The kind of the fault that has Postgres refuse an entry."""
QUIET_MAX_S = 10.0
"""How long recovery may take after the last fault."""


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """A long history is millions of objects without a cycle; looking for one again and again would take
    longer than all else."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@without_garbage_collection()
def check(evidence: Evidence) -> Report:
    """The verdict."""
    run, postgres, report = evidence.run, evidence.postgres, Report()
    tags = {event.id: tag_of(event.id) for event in run.events}
    ledgers = read_ledgers(evidence, report)
    asked = Asked(report)
    told, durable = sort_out(evidence.operations, tags, asked)
    rejected = {letter.booking for letter in postgres.dead_letters if letter.booking}
    for event in run.events:
        tag = tags[event.id]
        ledger, edits = ledgers[tag], postgres.edits.get(tag, [])
        real_time = RealTime(ledger, run.faults, report)
        passed = walk(ledger, told[tag], State(event, edits), rejected, real_time, report)
        asked.check(ledger)
        check_offsets(tag, postgres.steps.get(tag, []), report)
        check_losses(ledger, told[tag], run.faults, report)
        if passed.is_blind:
            report.counts["cells with entries that nobody saw"] += 1
        else:
            check_rows(tag, passed.state, postgres, rejected, report)
        check_stores(tag, event, _limit_max(event, edits), evidence.cells[tag], postgres, rejected, report)
    check_promises(durable, postgres, report)
    if not any(fault.kind == POISON for fault in run.faults):
        for letter in postgres.dead_letters:
            report.add("dead letters", "Postgres refused an entry that nothing was wrong with", letter)
    report.counts["operations"] = len(evidence.operations)
    report.counts["answers with a place"] = sum(map(len, told.values()))
    return report


def sort_out(
    operations: list[Operation], tags: dict[str, str], asked: Asked
) -> tuple[dict[str, list[Told]], list[Operation]]:
    """Go through the history once: the answers of each cell in the order of their places, and those that
    said `durable`."""
    told: dict[str, list[Told]] = {tag: [] for tag in tags.values()}
    durable = []
    for operation in operations:
        answer = operation.answer
        if answer is None or answer.http is None:
            asked.take(operation)
            continue
        # Where a cell is not open there is no place.
        if answer.at is not None and answer.at != "0-0":
            told[tags[operation.asked.event]].append((position_of(answer.at), operation))
        is_refused = 400 <= answer.http < 500
        # A confirm that is refused without a place may have been carried out, and lost while it waited.
        if not is_refused or (answer.at is None and operation.asked.verb != "reserve"):
            asked.take(operation)
            if answer.durable:
                durable.append(operation)
    for answers in told.values():
        answers.sort(key=itemgetter(0))
    return told, durable


def _limit_max(event: Event, edits: list[Edit]) -> int:
    sale = State(event, []).sale
    limits = [sale.limit]
    for edit in edits:
        sale = sale.after(edit.intent)
        limits.append(sale.limit)
    return max(limits)


async def gather(
    folder: Path, client_of: ClientOf, connection: asyncpg.Connection, quiet_max_s: float
) -> Evidence:
    """What a drill left behind; the stores once they are quiet."""
    run = read_run(folder)
    events = [event.id for event in run.events]
    postgres, cells = await read_when_quiet(client_of, connection, events, quiet_max_s)
    with without_garbage_collection():
        return Evidence(run, list(read_operations(folder)), read_entries(folder), postgres, cells)


async def _main(folder: Path, redis_url: str, postgres_url: str) -> int:
    client = redis.asyncio.Redis.from_url(redis_url)
    connection = await asyncpg.connect(postgres_url)
    try:
        evidence = await gather(folder, lambda tag: client, connection, QUIET_MAX_S)
    finally:
        await client.aclose()
        await connection.close()
    report = check(evidence)
    print(*report.lines(), sep="\n")
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check what a drill left behind.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--postgres", required=True)
    arguments = parser.parse_args()
    sys.exit(asyncio.run(_main(arguments.folder, arguments.redis, arguments.postgres)))
