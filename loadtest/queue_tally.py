"""What people were told in the waiting room, and what in that cannot be."""

from collections import Counter
from collections.abc import Iterator

import msgspec

from loadtest.plan import QueuePlan
from loadtest.told import Answer

FOUND_MAX = 10


class QueueFacts(msgspec.Struct, frozen=True):
    """The waiting room in numbers."""

    joined: int
    polls: int
    passes: int
    most_out: int
    """Passes that people had in their hands at one moment, unspent."""
    passes_max: int
    waited_s: list[float]
    """From joining to the pass: P50, P99."""
    pushers: int
    """Who pressed without a pass."""
    pushed_in: int


class QueueTally:
    """Places, passes and what was done with them, by person."""

    def __init__(self) -> None:
        self._joined_s: dict[int, float] = {}
        self._places: dict[int, int] = {}
        self._pass_s: dict[int, float] = {}
        self._spent_s: dict[int, float] = {}
        self._polls = 0
        self._pushed: Counter[bool] = Counter()
        self._moved: list[str] = []

    def take(self, answer: Answer) -> None:
        """Count one answer of any kind."""
        person = answer.person
        if answer.kind == "status":
            self._polls += 1
        if answer.kind == "join" and answer.status == 201:
            self._joined_s.setdefault(person, answer.done_s)
        if answer.kind in ("join", "status") and answer.place:
            before = self._places.setdefault(person, answer.place)
            if before != answer.place and len(self._moved) < FOUND_MAX:
                self._moved.append(f"person {person} was told place {before}, then {answer.place}")
        if answer.kind == "pass" and answer.status == 201:
            self._pass_s.setdefault(person, answer.done_s)
        if answer.is_pushing:
            self._pushed[answer.status == 201] += 1
        elif answer.kind == "reserve" and (answer.status == 201 or answer.status >= 500 or not answer.status):
            # Of an answer that did not come nobody knows; the pass may be spent from when it was asked for.
            self._spent_s.setdefault(person, answer.sent_s)

    def contradictions(self, plan: QueuePlan) -> Iterator[str]:
        """What cannot be, whatever the stores say."""
        yield from self._moved
        for place, count in Counter(self._places.values()).items():
            if count > 1:
                yield f"place {place} was given to {count} people"
        if self._pushed[True]:
            yield f"{self._pushed[True]} reservations were accepted without a pass"
        most_out = self._most_out(plan)
        if most_out > plan.passes_max:
            yield f"{most_out} passes were out at once, {plan.passes_max} may be"

    def _most_out(self, plan: QueuePlan) -> int:
        moments = []
        for person, from_s in self._pass_s.items():
            # A pass began to run before its answer was read.
            ends_s = from_s + plan.pass_ttl_s - 1.0
            until_s = min(self._spent_s.get(person, ends_s), ends_s)
            if until_s > from_s:
                moments += [(from_s, 1), (until_s, -1)]
        out = most = 0
        for _, change in sorted(moments):
            out += change
            most = max(most, out)
        return most

    def facts(self, plan: QueuePlan) -> QueueFacts:
        """The sums."""
        waited_s = sorted(
            self._pass_s[person] - joined_s
            for person, joined_s in self._joined_s.items()
            if person in self._pass_s
        )
        ranks = [min(int(share * len(waited_s)), len(waited_s) - 1) for share in (0.5, 0.99)]
        return QueueFacts(
            joined=len(self._joined_s),
            polls=self._polls,
            passes=len(self._pass_s),
            most_out=self._most_out(plan),
            passes_max=plan.passes_max,
            waited_s=[round(waited_s[rank], 1) if waited_s else 0.0 for rank in ranks],
            pushers=self._pushed.total(),
            pushed_in=self._pushed[True],
        )
