"""How long buyers had to wait, read from what they wrote down."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from tests.drills.history import Operation, Run, read_operations

NS_PER_S = 1_000_000_000


class Outage(msgspec.Struct):
    """Of one run."""

    gap_s: float = 0.0
    """The longest time in which somebody asked for a reservation and nobody got a final answer."""
    wait_s: float = 0.0
    """The longest that one buyer had to ask, from the first press to an answer that is final."""


def outage(folder: Path, run: Run) -> Outage:
    """What the run's buyers saw."""
    operations = list(read_operations(folder))
    if not run.faults or not operations:
        return Outage()
    return Outage(_gap_s(operations, run), _wait_s(operations))


def _is_good(operation: Operation) -> bool:
    answer = operation.answer
    return answer is not None and answer.http is not None and answer.http < 500 and answer.http != 202


def _gap_s(operations: Iterable[Operation], run: Run) -> float:
    """From when somebody asked to the next final answer of anybody; who is told to try again still waits."""
    begin_ns = min(fault.begin_ns for fault in run.faults)
    moments: list[tuple[int, int, bool]] = []
    for operation in operations:
        if operation.asked.verb == "reserve":
            moments.append((operation.asked.asked_ns, 1, False))
            if operation.answer is not None:
                moments.append((operation.answer.answered_ns, -1, _is_good(operation)))
    since_ns, pending, longest_ns = None, 0, 0
    for at_ns, change, is_good in sorted(moments):
        pending += change
        if is_good:
            if since_ns is not None and at_ns >= begin_ns:
                longest_ns = max(longest_ns, at_ns - since_ns)
            since_ns = at_ns if pending else None
        elif since_ns is None:
            since_ns = at_ns
    return longest_ns / NS_PER_S


def _wait_s(operations: Iterable[Operation]) -> float:
    """Tries of one wish follow each other: the same client, verb, user, and key or booking."""
    begun: dict[tuple[str, ...], int] = {}
    longest_ns = 0
    for operation in operations:
        asked = operation.asked
        handle = asked.key if asked.verb == "reserve" else asked.booking
        if handle is None:
            continue
        wish = (operation.client, asked.verb, asked.user, handle)
        began_ns = begun.setdefault(wish, asked.asked_ns)
        if _is_good(operation):
            assert operation.answer is not None
            longest_ns = max(longest_ns, operation.answer.answered_ns - began_ns)
            del begun[wish]
    return longest_ns / NS_PER_S
