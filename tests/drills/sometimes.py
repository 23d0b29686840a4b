"""What has to happen at least once in a whole drill: a fault that never bit has proved nothing."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from tests.drills.history import Run, read_entries, read_operations
from tests.drills.stack import Stack

LOGGED = {
    "rebuild happened": r"rebuilt \S+ from Postgres",
    "node lifted": r"lifted the node",
    "node of another history noticed": r"not the node that was lifted",
    "relay took shards over": r"the relay takes",
}
MEASURED = {
    "stale epoch refused": ("relay_batches_total", {"outcome": "stale"}),
    "booking refused by Postgres": ("dead_letters_total", {}),
    "hold taken back by the sweeper": ("holds_expired_total", {}),
}
TOLD = {
    "replay answered": "replay answered",
    "unknown outcome resolved by retry": "unknown outcome resolved by retry",
    "unknown outcome had been carried out": "unknown outcome had been carried out",
    "202 confirm later durable": "202 confirm later durable",
    "hold lost with Redis told at its end": "hold lost with Redis told at its end",
    "503 of a fence seen": "503 being recovered",
    "503 of a lost answer seen": "503 answer was lost",
    "503 of a store away seen": "503 store is away",
    "request without an answer": "no answer",
    "sold out seen": "reserve 409",
    "too fast seen": "reserve 429",
    "too late seen": "confirm 410",
    "hold taken back by a reserve": "hold taken back by a reserve",
    "confirm 202 while Postgres was away": "confirm 202 while Postgres was away",
    "lottery drawn": "lottery drawn",
    "place in the waiting room given": "queue join 201",
    "place in the waiting room given up": "queue leave 204",
    "pass given": "queue pass 201",
    "booking with a pass": "queue reserve 201",
    "booking without a good pass refused": "queue reserve 403",
}
"""Counted by the clients and by what is read from the histories."""


def counted(stack: Stack, seen: Counter[str]) -> Counter[str]:
    """All of them, from what was seen, from the members' logs and from their metrics."""
    counts = Counter({name: seen[what] for name, what in TOLD.items()})
    log = "\n".join(member.log for member in stack.members.values())
    for name, pattern in LOGGED.items():
        counts[name] = len(re.findall(pattern, log))
    for name, value in _metrics(stack).items():
        counts[name] = value
    return counts


def _metrics(stack: Stack) -> dict[str, int]:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(stack.metrics))  # type: ignore[no-untyped-call]
    values = {}
    for name, (metric, labels) in MEASURED.items():
        values[name] = int(registry.get_sample_value(metric, labels) or 0)
    return values


def seen_in(folder: Path, run: Run) -> Counter[str]:
    """What only the whole history of a run tells."""
    seen: Counter[str] = Counter()
    away = [fault for fault in run.faults if fault.kind.startswith("postgres")]
    for operation in read_operations(folder):
        answer = operation.answer
        if answer is not None and answer.http == 202:
            seen["confirm 202 while Postgres was away"] += any(
                fault.begin_ns < answer.answered_ns < fault.end_ns for fault in away
            )
    steps = sorted((tuple(map(int, entry.id.split("-"))), entry.text) for entry in read_entries(folder))
    for (before, first), (after, second) in pairwise(steps):
        if after == (before[0], before[1] + 1):
            seen["hold taken back by a reserve"] += _is_taken_back(first, second)
    return seen


def _is_taken_back(first: str, second: str) -> bool:
    """An expiry and the reservation behind it, of the same script call: of the same millisecond."""
    verb, at_ms, *_ = msgspec.json.decode(first)
    next_verb, next_at_ms, *_ = msgspec.json.decode(second)
    return (verb, next_verb) == ("expire", "reserve") and at_ms == next_at_ms
