"""The waiting room: one place for each person, one person for each place, a pass for each booking, the bound.

It reads both stores itself, as the rest of the checker does.
"""

import asyncio
import time
from collections import defaultdict
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import redis.asyncio

from tests.drills.checker_evidence import tag_of
from tests.drills.checker_report import Report
from tests.drills.history import Run
from tests.drills.queue_facts import Facts, Told

NOBODY = "00000000-0000-0000-0000-000000000000"
"""Whose a place is that Postgres forgot when it was set back, and that nobody stands in any more."""
POLL_S = 0.2
SHOWN_MAX = 5
RULE_PLACES, RULE_PASSES, RULE_BOUND, RULE_STORES = "places", "passes", "bound", "queue stores"

_ROOM = """
SELECT w.tail, w.serving, w.spent, c.epoch, c.seq FROM waiting_rooms w JOIN cells c USING (event_ref, cell)
WHERE c.event_id = $1
"""
_PLACES = """
SELECT p.number, p.user_id::text, p.ended_at IS NOT NULL
FROM queue_places p JOIN cells c USING (event_ref, cell) WHERE c.event_id = $1
"""


class QueueStores(msgspec.Struct):
    """One waiting room in both stores."""

    rows: list[tuple[int, str, bool]]
    """Number, user, and whether the place has ended."""
    tail: int
    serving: int
    places: dict[str, int]
    """In Redis: user → number."""
    redis_tail: int
    redis_serving: int

    @property
    def living(self) -> dict[str, int]:
        """In Postgres: user → number."""
        return {user: number for number, user, is_ended in self.rows if not is_ended}

    @property
    def agree(self) -> bool:
        """Whether both say the same."""
        own, theirs = (self.redis_tail, self.redis_serving), (self.tail, self.serving)
        return own == theirs and self.places == self.living


async def read_queue(event: str, client: redis.asyncio.Redis, connection: asyncpg.Connection) -> QueueStores:
    """Both stores, once they are quiet."""
    room = await connection.fetchrow(_ROOM, UUID(event))
    rows = [tuple(row) for row in await connection.fetch(_PLACES, UUID(event))]
    prefix = f"rush:{{{tag_of(event)}}}:"
    places: Any = await client.hgetall(prefix + "places")
    tail, serving = await client.hmget(prefix + "queue", ["tail", "serving"])
    return QueueStores(
        rows=rows,  # type: ignore[arg-type]
        tail=room["tail"],
        serving=room["serving"],
        places={str(UUID(bytes=user)): int(number) for user, number in places.items()},
        redis_tail=int(tail or 0),
        redis_serving=int(serving or 0),
    )


async def settled_queue(
    event: str, client: redis.asyncio.Redis, connection: asyncpg.Connection, quiet_max_s: float
) -> QueueStores:
    """The same, once they agree, or after that time: until the last pass has run out, places end."""
    deadline_s = time.monotonic() + quiet_max_s
    while True:
        stores = await read_queue(event, client, connection)
        if stores.agree or time.monotonic() > deadline_s:
            return stores
        await asyncio.sleep(POLL_S)


def check_queue(facts: Facts, stores: QueueStores, run: Run, report: Report) -> None:
    """Every rule of one waiting room."""
    may_lose = any(fault.may_lose for fault in run.faults)
    by_user: dict[str, list[Told]] = defaultdict(list)
    for told in facts.told:
        by_user[told.user].append(told)
    _check_places(by_user, report)
    for user, answers in by_user.items():
        _check_passes(user, answers, may_lose, report)
    _check_bound(facts, report)
    _check_stores(by_user, stores, may_lose, report)
    report.counts["people who waited"] += len(by_user)
    report.counts["passes told"] += sum(told.verb == "pass" and told.http == 201 for told in facts.told)
    report.counts["times the passes out were counted"] += len(facts.samples)


def _check_places(by_user: dict[str, list[Told]], report: Report) -> None:
    owner: dict[int, str] = {}
    for user, answers in by_user.items():
        places = [told for told in answers if told.place is not None and told.http < 300]
        for before, after in pairwise(places):
            # A place ends with a pass that ran out, or by leaving: a new one follows, behind.
            if after.place < before.place:  # type: ignore[operator]
                report.add(RULE_PLACES, f"{user} moved forward by joining again", before, after)
        changes = {told.place for told in places}
        if len(changes) > 1 and not any(told.verb == "leave" or told.code == "NOT_FOUND" for told in answers):
            report.add(RULE_PLACES, f"{user} was told several places", sorted(filter(None, changes)))
        for told in places:
            first = owner.setdefault(told.place or 0, user)
            if first != user:
                report.add(RULE_PLACES, f"place {told.place} was given twice", first, told)


def _check_passes(user: str, answers: list[Told], may_lose: bool, report: Report) -> None:
    """A booking needs a pass of this person, and takes it."""
    passes = {told.expires_at_ms for told in answers if told.verb == "pass" and told.http == 201}
    spent: dict[int, str] = {}
    for told in answers:
        if told.verb != "reserve" or told.http != 201 or told.booking is None:
            continue
        if told.with_pass_ms not in passes:
            report.add(RULE_PASSES, f"{user} reserved without a pass", told)
        first = spent.setdefault(told.with_pass_ms, told.booking)
        # What Redis lost takes the knowledge with it that the pass was spent.
        if first != told.booking and not may_lose:
            report.add(RULE_PASSES, f"{user} reserved twice with one pass", first, told)


def _check_bound(facts: Facts, report: Report) -> None:
    for sample in facts.samples:
        if sample.out > facts.passes_max:
            report.add(RULE_BOUND, f"{sample.out} passes were out, {facts.passes_max} may be", sample)


def _check_stores(
    by_user: dict[str, list[Told]], stores: QueueStores, may_lose: bool, report: Report
) -> None:
    owner = {number: user for number, user, _ in stores.rows}
    for user, answers in by_user.items():
        for told in answers:
            if told.place is None or told.http >= 300:
                continue
            found = owner.get(told.place)
            if found == NOBODY:
                continue
            if found is None and not may_lose:
                report.add(RULE_STORES, f"Postgres does not know place {told.place}", told)
            elif found is not None and found != user:
                report.add(RULE_STORES, f"Postgres gives place {told.place} to {found}", told)
    if not stores.agree:
        differ = sorted(stores.living.items() ^ stores.places.items())[:SHOWN_MAX]
        counts = (
            f"Redis {stores.redis_tail}, {stores.redis_serving}; Postgres {stores.tail}, {stores.serving}"
        )
        report.add(
            RULE_STORES, "Redis and Postgres differ after the quiet time", differ, f"tail, serving: {counts}"
        )
