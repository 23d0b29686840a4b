"""Counting what clients were told, line by line, while it happens."""

from array import array
from collections import Counter
from collections.abc import Mapping
from uuid import UUID

import msgspec

from engine.audit_told import Told, ToldBooking
from loadtest.person import basket_of
from loadtest.plan import Plan
from loadtest.queue_tally import QueueTally
from loadtest.told import NO_ANSWER, Answer, Beat, End, Line

LATE_S = 0.05
"""Who starts so long after the scheduled time is late."""
SLICE_S = 1.0
FOUND_MAX = 50


class Bucket(msgspec.Struct):
    """One second of the run."""

    answered: int = 0
    accepted: int = 0
    refused: int = 0
    errors: int = 0
    latencies_ms: list[float] = []


class _Attempt(msgspec.Struct):
    """A wish of one person: all requests with one key."""

    booking_id: UUID | None = None
    is_known: bool = False
    """A definite answer came."""
    was_unknown: bool = False
    """Some answer left it open what happened."""
    firsts: int = 0
    """How many 201 did not say that they were a replay."""


class _Heard(msgspec.Struct):
    """What was told of one booking."""

    user_id: UUID
    basket: int
    ledger_seq: str
    is_confirm_asked: bool = False
    is_confirmed: bool = False
    is_cancelled: bool = False
    confirm_was_unknown: bool = False
    confirm_is_known: bool = True


class Tally:
    """The sums, and what in them contradicts itself."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.answers: Counter[tuple[str, int, str]] = Counter()
        """(kind, status, code) → how many."""
        self.replays = 0
        self.latencies_ms: dict[str, array[float]] = {}
        """By kind, from when it was due."""
        self.service_ms: dict[str, array[float]] = {}
        """By kind, from when it was sent."""
        self.late_ms: array[float] = array("d")
        self.first_s: float | None = None
        self.last_s = 0.0
        self.last_arrival_s = 0.0
        self.slices: dict[int, Bucket] = {}
        self.bookings: dict[UUID, _Heard] = {}
        self.found: list[str] = []
        """Contradictions in what was told, in words."""
        self.queue = QueueTally()
        self._attempts: dict[tuple[int, int], _Attempt] = {}
        self._users: dict[int, UUID] = {}
        self._seqs: dict[str, UUID] = {}
        self._arrived: dict[int, int] = {}
        self._in_flight: dict[int, int] = {}
        self.ended: set[int] = set()

    def take(self, line: Line) -> None:
        """Count one line."""
        match line:
            case Answer():
                self._take_answer(line)
            case Beat():
                self._arrived[line.process] = line.arrived
                self._in_flight[line.process] = line.in_flight
                if self.first_s is None:
                    self.first_s = line.at_s
            case End():
                self._arrived[line.process] = line.arrived
                self._in_flight[line.process] = 0
                self.ended.add(line.process)

    @property
    def has_begun(self) -> bool:
        """Whether any client has said anything."""
        return bool(self._arrived)

    @property
    def arrived(self) -> int:
        """How many people have arrived."""
        return sum(self._arrived.values())

    @property
    def in_flight(self) -> int:
        """How many of them are not done."""
        return sum(self._in_flight.values())

    @property
    def is_complete(self) -> bool:
        """Whether every process wrote its last line."""
        return len(self.ended) == self.plan.processes

    @property
    def accepted(self) -> int:
        """Reservations: 201, each once."""
        return len(self.bookings)

    @property
    def refusals(self) -> Counter[str]:
        """Answers that say no, by reason."""
        refusals: Counter[str] = Counter()
        for (kind, status, code), count in self.answers.items():
            if 400 <= status < 500:
                refusals[f"{kind} {status} {code}".strip()] += count
        return refusals

    @property
    def errors(self) -> Counter[str]:
        """5xx and connections that broke."""
        errors: Counter[str] = Counter()
        for (kind, status, code), count in self.answers.items():
            if status >= 500 or status == NO_ANSWER or code == "UNREADABLE":
                errors[f"{kind} {status or 'no answer'} {code}".strip()] += count
        return errors

    def _take_answer(self, answer: Answer) -> None:
        self.answers[answer.kind, answer.status, answer.code] += 1
        self._users.setdefault(answer.person, answer.user_id)
        self.first_s = answer.due_s if self.first_s is None else min(self.first_s, answer.due_s)
        self.last_s = max(self.last_s, answer.done_s)
        latency_ms = (answer.done_s - answer.due_s) * 1000
        self.latencies_ms.setdefault(answer.kind, array("d")).append(latency_ms)
        self.service_ms.setdefault(answer.kind, array("d")).append((answer.done_s - answer.sent_s) * 1000)
        if answer.is_first:
            self.last_arrival_s = max(self.last_arrival_s, answer.sent_s)
            self.late_ms.append((answer.sent_s - answer.due_s) * 1000)
        self._take_slice(answer, latency_ms)
        self.queue.take(answer)
        if answer.kind == "reserve":
            self._take_reserve(answer)
        elif answer.kind in ("confirm", "cancel"):
            self._take_decision(answer)

    def _take_slice(self, answer: Answer, latency_ms: float) -> None:
        assert self.first_s is not None
        slice_ = self.slices.setdefault(int((answer.done_s - self.first_s) / SLICE_S), Bucket())
        slice_.answered += 1
        slice_.latencies_ms.append(latency_ms)
        if answer.kind == "reserve" and answer.status == 201 and not answer.is_replayed:
            slice_.accepted += 1
        elif 400 <= answer.status < 500:
            slice_.refused += 1
        elif answer.status >= 500 or answer.status == NO_ANSWER:
            slice_.errors += 1

    def _take_reserve(self, answer: Answer) -> None:
        attempt = self._attempts.setdefault((answer.person, answer.attempt), _Attempt())
        if answer.status == NO_ANSWER or answer.status >= 500:
            attempt.was_unknown = True
            return
        attempt.is_known = True
        if answer.status != 201:
            return
        if answer.booking_id is None or answer.ledger_seq is None:
            self._contradiction(f"a 201 of person {answer.person} names no booking or no X-Ledger-Seq")
            return
        if answer.is_replayed:
            self.replays += 1
        else:
            attempt.firsts += 1
            other = self._seqs.setdefault(answer.ledger_seq, answer.booking_id)
            if other != answer.booking_id:
                self._contradiction(f"ledger entry {answer.ledger_seq} made {other} and {answer.booking_id}")
        if attempt.firsts > 1:
            self._contradiction(f"one key of person {answer.person} was accepted {attempt.firsts} times")
        if attempt.booking_id not in (None, answer.booking_id):
            self._contradiction(
                f"one key of person {answer.person} gave {attempt.booking_id} and {answer.booking_id}"
            )
        attempt.booking_id = answer.booking_id
        heard = self.bookings.setdefault(
            answer.booking_id, _Heard(answer.user_id, answer.basket, answer.ledger_seq)
        )
        if heard.user_id != answer.user_id:
            self._contradiction(f"booking {answer.booking_id} was given to two people")

    def _take_decision(self, answer: Answer) -> None:
        heard = self.bookings.get(answer.booking_id) if answer.booking_id else None
        if heard is None:
            self._contradiction(f"{answer.kind} of {answer.booking_id}, which was never reserved")
            return
        is_unknown = answer.status in (NO_ANSWER, 202) or answer.status >= 500
        if answer.kind == "confirm":
            heard.is_confirm_asked = True
            heard.is_confirmed |= answer.status == 200
            heard.confirm_was_unknown |= is_unknown
            heard.confirm_is_known = not is_unknown
        elif answer.status == 200:
            heard.is_cancelled = True

    def _contradiction(self, text: str) -> None:
        if len(self.found) < FOUND_MAX:
            self.found.append(text)

    # At the end.

    def unknown(self) -> tuple[int, int]:
        """Requests whose outcome was unknown for a while: how many were resolved, and how many were not."""
        reserves = [attempt.is_known for attempt in self._attempts.values() if attempt.was_unknown]
        confirms = [heard.confirm_is_known for heard in self.bookings.values() if heard.confirm_was_unknown]
        resolved = sum(reserves) + sum(confirms)
        return resolved, len(reserves) + len(confirms) - resolved

    def told(self) -> Told:
        """What everybody was told, for the audit."""
        doubtful = {
            self._users[person]
            for (person, _), attempt in self._attempts.items()
            if attempt.was_unknown and not attempt.is_known
        }
        return Told(
            bookings={booking_id: self._told_booking(heard) for booking_id, heard in self.bookings.items()},
            users_in_doubt=doubtful,
            is_complete=self.is_complete,
        )

    def _told_booking(self, heard: _Heard) -> ToldBooking:
        return ToldBooking(
            user_id=heard.user_id,
            quantity=basket_of(self.plan, heard.basket).quantity,
            epoch=int(heard.ledger_seq.partition("-")[0]),
            is_confirm_asked=heard.is_confirm_asked,
            is_confirmed=heard.is_confirmed,
            is_cancelled=heard.is_cancelled,
        )

    def confirmed_by_zone(self) -> Mapping[UUID, int]:
        """Seats that people were told are theirs."""
        seats: Counter[UUID] = Counter()
        for heard in self.bookings.values():
            if heard.is_confirmed:
                for zone_id, quantity in basket_of(self.plan, heard.basket).items:
                    seats[zone_id] += quantity
        return seats

    def confirmed_by_user(self) -> Mapping[UUID, int]:
        """Seats that each person was told are theirs."""
        seats: Counter[UUID] = Counter()
        for heard in self.bookings.values():
            if heard.is_confirmed:
                seats[heard.user_id] += basket_of(self.plan, heard.basket).quantity
        return seats
