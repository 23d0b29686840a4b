"""Everything that happened was asked for, as often as it was asked for; and a key names one booking."""

from collections import Counter, defaultdict

from tests.drills.checker_answers import items_asked
from tests.drills.checker_evidence import position_text
from tests.drills.checker_ledger import Cancel, Confirm, Ledger, Reserve, items_of
from tests.drills.checker_report import Report
from tests.drills.history import Answered, Operation

Wish = tuple[str, tuple[tuple[str, int], ...], bool]
"""User, items, and whether there is a key."""


def is_unknown(operation: Operation) -> bool:
    """Whether the answer, or its absence, leaves open what was done."""
    answer = operation.answer
    if answer is None or answer.http is None:
        return True
    # A reserve that is refused for the moment names the place at which it was refused.
    return answer.http >= 500 and (answer.at is None or operation.asked.verb != "reserve")


def _may_have_been(answer: Answered) -> bool:
    """Whether a confirm or cancel that was answered may have been carried out.

    Who waits for a confirm to be durable while it is lost is told what is there afterwards; that answer has
    no place in the ledger, as a script's refusal has.
    """
    return answer.http in (200, 202) or (answer.at is None and answer.http in (404, 409, 410))


class Asked:
    """What the clients asked for, of all cells."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._told: set[str] = set()
        """Bookings that some 201 named."""
        self._open: dict[Wish, list[Operation]] = defaultdict(list)
        """Reservations with an unknown outcome, a keyed one once."""
        self._moves: set[tuple[str, str | None]] = set()
        self._keyed: dict[tuple[str, str, str], Operation] = {}
        self._unlike: list[tuple[Operation, Operation]] = []
        self._granted: Counter[str] = Counter()
        """How often somebody was told that a booking had just come to be."""
        self._seen: set[tuple[str, str, Wish]] = set()

    def take(self, operation: Operation) -> None:
        """Take note of one that was carried out, or may have been."""
        asked, answer = operation.asked, operation.answer
        if asked.verb != "reserve":
            if is_unknown(operation) or (answer is not None and _may_have_been(answer)):
                self._moves.add((asked.verb, asked.booking))
        elif is_unknown(operation):
            self._report.counts["unknown outcomes"] += 1
            wish = (asked.user, items_asked(operation), asked.key is not None)
            once = (asked.event, asked.key or "", wish)
            if asked.key is None or once not in self._seen:
                self._open[wish].append(operation)
            self._seen.add(once)
        elif answer is not None and answer.http == 201 and answer.booking:
            self._told.add(answer.booking)
            if asked.key is not None:
                self._granted[answer.booking] += not answer.replayed
                self._compare(operation)

    def _compare(self, operation: Operation) -> None:
        asked, answer = operation.asked, operation.answer
        first = self._keyed.setdefault((asked.event, asked.user, asked.key or ""), operation)
        assert answer is not None
        assert first.answer is not None
        if first is operation:
            return
        self._report.counts["the same key again"] += 1
        if first.answer.booking != answer.booking:
            self._report.add("key", "one key was told of two bookings", first, operation)
        elif first.answer.digest != answer.digest or items_asked(first) != items_asked(operation):
            self._unlike.append((first, operation))

    def check(self, ledger: Ledger) -> None:
        """Compare with what happened in one cell."""
        lives: Counter[str] = Counter()
        unasked: dict[str, int] = {}
        for position, step in ledger.steps.items():
            if type(step) is Reserve:
                lives[step.booking] += 1
                if step.booking not in self._told:
                    unasked.setdefault(step.booking, position)
            elif type(step) is Confirm or type(step) is Cancel:
                verb = "confirm" if type(step) is Confirm else "cancel"
                if (verb, step.booking) not in self._moves:
                    self._nobody(ledger, position)
        for position in unasked.values():
            self._take(ledger, position)
        for first, again in self._unlike:
            assert first.answer is not None
            booking = first.answer.booking or ""
            # What was lost may be asked for again, and otherwise.
            if max(lives[booking], self._granted[booking]) == 1:
                self._report.add("key", "an answer that was given again was another", first, again)

    def _take(self, ledger: Ledger, position: int) -> None:
        """Find who may have asked for a booking that nobody was told of."""
        step = ledger.steps[position]
        assert isinstance(step, Reserve)
        wish = (step.user, items_of(step), bool(step.fingerprint))
        if self._open.get(wish):
            self._open[wish].pop()
            self._report.counts["unknown outcomes that had happened"] += 1
        else:
            self._nobody(ledger, position)

    def _nobody(self, ledger: Ledger, position: int) -> None:
        text = f"{ledger.tag} {position_text(position)}: nobody asked for this, or not so often"
        self._report.add("unasked", text, ledger.evidence(position))
