"""What a run's history and its stores say of it: the checker's report."""

from pathlib import Path

import asyncpg
import redis.asyncio

from tests.drills.checker import check, gather
from tests.drills.checker_queue import check_queue, settled_queue
from tests.drills.checker_report import Report
from tests.drills.queue_facts import read_facts
from tests.drills.stack import Stack

QUIET_MAX_S = 15.0
TIMEOUT_S = 10.0


async def verdict(folder: Path, stack: Stack) -> Report:
    """Everything that must never be false and is, and how much was looked at."""
    client = redis.asyncio.Redis.from_url(stack.redis.url, socket_timeout=TIMEOUT_S)
    connection = await asyncpg.connect(stack.postgres.url, timeout=TIMEOUT_S)
    try:
        evidence = await gather(folder, lambda tag: client, connection, QUIET_MAX_S)
        facts = read_facts(folder)
        queue = await settled_queue(facts.event, client, connection, QUIET_MAX_S) if facts else None
    finally:
        await client.aclose()
        await connection.close()
    report = check(evidence)
    if facts is not None and queue is not None:
        check_queue(facts, queue, evidence.run, report)
    return report
