"""What was promised is in Postgres, what is in Postgres is what the ledger says, and what is missing was
lost by something that may lose it."""

from bisect import bisect
from collections.abc import Iterable
from operator import itemgetter

from tests.drills.checker_evidence import (
    SEQ_BITS,
    SEQ_MASK,
    Booking,
    Counters,
    Offset,
    Postgres,
    position_text,
)
from tests.drills.checker_inventory import Told, is_granted
from tests.drills.checker_ledger import UNSEEN, Ledger, Open
from tests.drills.checker_report import Report
from tests.drills.checker_state import AVAILABLE, BLOCKED, CAPACITY, CONFIRMED, RESERVED, Held, State
from tests.drills.history import Fault, Operation


def check_promises(operations: Iterable[Operation], postgres: Postgres, report: Report) -> None:
    """An answer that said `durable` is true for ever."""
    for operation in operations:
        answer = operation.answer
        if answer is None or answer.booking is None:
            continue
        report.counts["durable answers"] += 1
        row = postgres.bookings.get(answer.booking)
        if row is None:
            report.add("promise", "a durable booking is not in Postgres", operation)
        elif answer.status != "reserved" and row.status != answer.status:
            report.add("promise", f"was told {answer.status}, and Postgres has {row.status}", operation, row)
        elif answer.status == "confirmed" and answer.confirmation_code not in (None, row.code):
            report.add("promise", f"another confirmation code is in Postgres: {row.code}", operation, row)


def check_offsets(tag: str, steps: list[Offset], report: Report) -> None:
    """An offset goes on from where it was, forwards, and a new epoch is the next one."""
    before = 0
    for step in steps:
        is_same_epoch = step.after >> SEQ_BITS == step.before >> SEQ_BITS
        is_next_epoch = step.after >> SEQ_BITS == (step.before >> SEQ_BITS) + 1 and step.after & SEQ_MASK == 0
        if step.before != before or not (is_next_epoch or (is_same_epoch and step.after > step.before)):
            report.add(
                "offset", f"{tag} went from {position_text(step.before)} to {position_text(step.after)}"
            )
        before = step.after
    report.counts["epochs"] += len({step.after >> SEQ_BITS for step in steps})


def check_losses(ledger: Ledger, told: list[Told], faults: list[Fault], report: Report) -> None:
    """The end of an epoch is only lost where a fault that may lose it lies between it and the next."""
    for epoch, last in ledger.last_of.items():
        above = (epoch + 1) << SEQ_BITS
        behind = told[bisect(told, last, key=itemgetter(0)) : bisect(told, above - 1, key=itemgetter(0))]
        granted = {position: operation for position, operation in behind if is_granted(operation)}
        seen = sorted({*granted, *(position for position in ledger.steps if last < position < above)})
        if not seen:
            continue
        times = [ledger.seen_ns[position] for position in seen if position in ledger.seen_ns]
        asked = list(granted.values())
        first_ns = min([*times, *(operation.asked.asked_ns for operation in asked)], default=0)
        opened_ns = _opened_ns(ledger, epoch)
        report.counts["epochs that lost their end"] += 1
        report.counts["holds that were lost"] += len(asked)
        if not any(
            fault.may_lose and fault.end_ns >= first_ns and (opened_ns is None or fault.begin_ns <= opened_ns)
            for fault in faults
        ):
            text = (
                f"{ledger.tag}: its epoch was kept up to {position_text(last)}, and nothing may lose its end"
            )
            report.add("lost", text, *map(ledger.evidence, seen[:3]), *asked[:3])


def _opened_ns(ledger: Ledger, epoch: int) -> int | None:
    """When somebody saw that a later epoch had begun."""
    later = [
        seen_ns
        for position, seen_ns in ledger.seen_ns.items()
        if position >> SEQ_BITS > epoch and type(ledger.steps.get(position)) is Open
    ]
    return min(later, default=None)


def check_rows(tag: str, state: State, postgres: Postgres, rejected: set[str], report: Report) -> None:
    """Every entry that was kept is in Postgres exactly once: its rows are what the entries add up to.

    Whatever is left of a booking that Postgres refused is not compared row by row.
    """
    for id_ in {*state.bookings, *postgres.rows_of(tag)} - rejected:
        held, row = state.bookings.get(id_), postgres.bookings.get(id_)
        if held is None or row is None:
            where = "Postgres" if row is None else "the ledger"
            report.add("rows", f"{tag}: booking {id_} is not in {where}", held, row)
        elif _as_held(held) != _as_row(row) and not _is_unseen_alone(held, row):
            text = f"{tag}: booking {id_} is not as the ledger left it"
            report.add("rows", text, f"ledger {_as_held(held)}", f"Postgres {_as_row(row)}")
    for zone, counters in state.zones.items():
        row_counters = postgres.zones.get(zone)
        expected = Counters(
            counters[CAPACITY],
            counters[AVAILABLE],
            counters[RESERVED],
            counters[CONFIRMED],
            counters[BLOCKED],
        )
        if row_counters != expected and not rejected:
            report.add("rows", f"{tag}: zone {zone} is not as the ledger left it", expected, row_counters)


def _as_held(held: Held) -> tuple[object, ...]:
    return (
        *(held.user, held.status, held.version, held.position, held.items, held.units, held.expires_at_ms),
        *(held.fingerprint or None, held.code),
    )


def _is_unseen_alone(held: Held, row: Booking) -> bool:
    """Whether they differ in nothing but a fingerprint that nobody saw."""
    *ours, fingerprint, code = _as_held(held)
    *theirs, _, their_code = _as_row(row)
    return fingerprint == UNSEEN and (ours, code) == (theirs, their_code)


def _as_row(row: Booking) -> tuple[object, ...]:
    return (
        *(row.user, row.status, row.version, row.position, row.items, row.quantity, row.expires_at_ms),
        *(row.fingerprint, row.code),
    )
