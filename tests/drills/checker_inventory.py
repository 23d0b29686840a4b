"""Linearizability of the inventory, in one pass over (epoch, seq).

Every answer says where the ledger stood when it was given. So the entries are the order of the successes,
every refusal has its place between two of them, and there is nothing to search: each entry must have been
possible in the state before it, each answer right in the state after the entry that it names.

An epoch may lose its end. Then what was answered there is judged by what was true there, and the next epoch
goes on from what was kept.
"""

from bisect import bisect_left

import msgspec

from tests.drills.checker_answers import Answers, items_asked
from tests.drills.checker_evidence import SEQ_BITS, SEQ_MASK
from tests.drills.checker_ledger import UNSEEN, Ledger, Open, Reserve
from tests.drills.checker_real_time import RealTime
from tests.drills.checker_report import Report
from tests.drills.checker_state import State
from tests.drills.checker_transitions import Transitions
from tests.drills.history import Operation

Told = tuple[int, Operation]
"""An answer and its place."""


class Pass(msgspec.Struct):
    """How the pass ended."""

    state: State
    is_blind: bool
    """Whether entries are missing that nobody saw: what came behind them was not judged."""


def walk(
    ledger: Ledger,
    told: list[Told],
    state: State,
    rejected: set[str],
    real_time: RealTime,
    report: Report,
) -> Pass:
    """Go through the ledger once, from the cell as it was in the beginning; `told` in the order of the
    places, `rejected` are the bookings that Postgres refused."""
    transitions = Transitions(ledger, rejected, report)
    return _Walk(ledger, told, transitions, real_time, report).go(state)


class _Walk:
    def __init__(
        self,
        ledger: Ledger,
        told: list[Told],
        transitions: Transitions,
        real_time: RealTime,
        report: Report,
    ) -> None:
        self._ledger = ledger
        self._told = told
        self._next = 0
        self._transitions = transitions
        self._answers = Answers(ledger, report)
        self._real_time = real_time
        self._report = report
        self._is_blind = False

    def go(self, state: State) -> Pass:
        """From the first epoch to the last."""
        ends = self._ends()
        for epoch in sorted({*ends, *self._ledger.last_of, self._ledger.end >> SEQ_BITS} - {0}):
            self._epoch(state, epoch, ends.get(epoch, epoch << SEQ_BITS))
        return Pass(state, self._is_blind)

    def _ends(self) -> dict[int, int]:
        """How far each epoch is known."""
        ends: dict[int, int] = {}
        for places in (sorted(self._ledger.steps), [position for position, _ in self._told]):
            index = 0
            while index < len(places):
                epoch = places[index] >> SEQ_BITS
                index = bisect_left(places, (epoch + 1) << SEQ_BITS)
                ends[epoch] = max(ends.get(epoch, 0), places[index - 1])
        return ends

    def _epoch(self, state: State, epoch: int, end: int) -> None:
        ledger, first = self._ledger, epoch << SEQ_BITS
        if first > ledger.end:
            text = f"{ledger.tag}: Postgres knows no epoch {epoch}"
            self._report.add("epoch", text, ledger.evidence(first))
        # The last epoch is kept whole; how far Postgres has it is another rule's question.
        last = ledger.last_of.get(epoch, max(end, ledger.end))
        self._run(state, first, min(last, end))
        if last > end:
            # Postgres has more of it than anybody saw.
            self._is_blind = True
        elif end > last:
            self._report.counts["lost entries"] += end - last
            was_blind = self._is_blind
            self._run(state.copy(), last + 1, end, is_kept=False)
            self._is_blind = was_blind

    def _run(self, state: State, first: int, last: int, *, is_kept: bool = True) -> None:
        steps, told, count = self._ledger.steps, self._told, len(self._told)
        apply, judge, see = self._transitions.apply, self._answers.judge, self._real_time.see
        index = self._next
        for position in range(first, last + 1):
            step = steps.get(position)
            if step is None:
                step = self._as_told(state, position, index)
            if step is None:
                self._is_blind = self._is_blind or position & SEQ_MASK != 0
            elif not self._is_blind:
                if (position & SEQ_MASK == 0) != (type(step) is Open):
                    evidence = self._ledger.evidence(position)
                    self._report.add("epoch", "an epoch begins with `open`", evidence)
                apply(state, position, step)
            while index < count and told[index][0] <= position:
                operation = told[index][1]
                if not self._is_blind:
                    judge(state, position, operation)
                if is_kept:
                    see(position, operation)
                index += 1
        self._next = index

    def _as_told(self, state: State, position: int, index: int) -> Reserve | None:
        """The entry of a 201 that only its client saw: it was lost before a watcher came by."""
        while index < len(self._told) and self._told[index][0] <= position:
            if is_granted(self._told[index][1]):
                return _as_told(state, self._told[index][1])
            index += 1
        return None


def is_granted(operation: Operation) -> bool:
    """Whether the answer says that its place is where the booking came to be."""
    answer = operation.answer
    return answer is not None and answer.http == 201 and not answer.replayed


def _as_told(state: State, operation: Operation) -> Reserve:
    asked, answer = operation.asked, operation.answer
    assert answer is not None
    at_ms = answer.created_at_ms or state.time_ms
    return Reserve(
        at_ms,
        answer.booking or "",
        asked.user,
        UNSEEN if asked.key else "",
        answer.expires_at_ms or at_ms + state.sale.hold_ttl_ms,
        "",
        tuple((zone, quantity, 0, "") for zone, quantity in items_asked(operation)),
    )
