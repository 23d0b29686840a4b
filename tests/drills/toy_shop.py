"""A shop that makes no mistakes, in a page: it writes the history that a product without faults would leave.

Tests break what it wrote, and the checker must find that; what it wrote itself must never give an alarm.
"""

import copy
import hashlib
from itertools import takewhile
from typing import Any

import msgspec

from tests.drills.checker_evidence import (
    SEQ_BITS,
    Booking,
    Buyer,
    Cell,
    Counters,
    DeadLetter,
    Evidence,
    Offset,
    Postgres,
    position_text,
    tag_of,
)
from tests.drills.history import Answered, Asked, Details, Entry, Event, Fault, Items, Operation, Run, Zone

PREFIX = "0a1b2c3d-4e5f-8000-"
EVENT = PREFIX + "8000-000000000000"
TAG = tag_of(EVENT)
HOLD_TTL_MS = 600_000
LIMIT = 4

_encode = msgspec.json.Encoder().encode


def zone_id(number: int) -> str:
    """The id of the zone of that number."""
    return f"{PREFIX}9000-{number:012x}"


def user_id(number: int) -> str:
    """The id of the user of that number."""
    return f"5ca1ab1e-0000-4000-8000-{number:012x}"


class _Stock(msgspec.Struct):
    bookings: dict[str, Booking] = {}
    zones: dict[str, Counters] = {}
    keys: dict[tuple[str, str], str] = {}
    holds: dict[str, Booking] = {}
    """The oldest first."""
    of_user: dict[str, list[Booking]] = {}


class Shop:
    """One event with one cell. Every call is an operation that was asked, done and answered in this order."""

    def __init__(self, capacities: tuple[int, ...] = (10,), *, keeps_snapshots: bool = True) -> None:
        zones = [Zone(zone_id(number), capacity) for number, capacity in enumerate(capacities)]
        self.run = Run(1, "toy", [Event(EVENT, zones, LIMIT, HOLD_TTL_MS)])
        self.stock = _Stock(
            zones={zone.id: Counters(zone.capacity, zone.capacity, 0, 0, 0) for zone in zones}
        )
        self.operations: list[Operation] = []
        self.entries: list[Entry] = []
        self.dead_letters: list[DeadLetter] = []
        self.steps = [Offset(0, 1 << SEQ_BITS)]
        self.ledger: list[tuple[str, str]] = []
        self.now_ms, self.now_ns = 1_700_000_000_000, 1_000
        self.position = 1 << SEQ_BITS
        self._snapshots: dict[int, _Stock] | None = {} if keeps_snapshots else None
        self._bookings_made = 0
        self._append("open", position=self.position)

    # What people ask.

    def reserve(
        self, user: int, items: list[tuple[int, int]], *, key: str | None = None, fate: str = "answered"
    ) -> Operation:
        """`fate`: answered, no reply (done, and nobody was told), no request (not done, nobody was told)."""
        wanted = tuple(sorted((zone_id(number), quantity) for number, quantity in items))
        asked = self._asked("reserve", user_id(user), items=wanted, key=key)
        if fate == "no request":
            return self._told(asked, None)
        answer = self._reserve(asked, wanted)
        return self._told(asked, answer if fate == "answered" else None)

    def confirm(self, booking: str, *, fate: str = "answered", is_durable: bool = True) -> Operation:
        """A 200, or a 202 where it is not durable; as `reserve` otherwise."""
        held = self.stock.bookings[booking]
        asked = self._asked("confirm", held.user, booking=booking)
        if fate == "no request":
            return self._told(asked, None)
        if held.status == "reserved" and self.now_ms < held.expires_at_ms:
            self._move(held, "confirm", "confirmed")
        answer = self._of_booking(held, "confirmed")
        if answer.http == 200:
            answer.durable = is_durable
            answer.http = 200 if is_durable else 202
            answer.confirmation_code = held.code if is_durable else None
        return self._told(asked, answer if fate == "answered" else None)

    def cancel(self, booking: str, *, fate: str = "answered") -> Operation:
        """As `confirm`."""
        held = self.stock.bookings[booking]
        asked = self._asked("cancel", held.user, booking=booking)
        if fate == "no request":
            return self._told(asked, None)
        if held.status == "reserved" and self.now_ms < held.expires_at_ms:
            self._move(held, "cancel", "cancelled")
        return self._told(asked, self._of_booking(held, "cancelled") if fate == "answered" else None)

    # What happens by itself.

    def pass_time(self, ms: int) -> None:
        """Let time go by."""
        self.now_ms += ms

    def sweep(self) -> None:
        """Take back what is due."""
        for held in list(takewhile(self._is_due, self.stock.holds.values())):
            self._expire_if_due(held)

    def lose(self, kept: int) -> None:
        """Redis dies and keeps `kept` entries of the epoch; the next one begins."""
        assert self._snapshots is not None
        last = (self.position >> SEQ_BITS << SEQ_BITS) + kept
        self.stock = copy.deepcopy(self._snapshots[last])
        self.steps += [Offset(last & ~0xFFFFFFFFFF, last)] if kept else []
        self.position = ((last >> SEQ_BITS) + 1) << SEQ_BITS
        self.steps.append(Offset(last, self.position))
        self.ledger = []
        self._append("open", position=self.position)

    def fault(self, *, may_lose: bool, kind: str = "redis_kill") -> None:
        """Something is done to the system, from now on for a moment."""
        self.run.faults.append(Fault(kind, self.now_ns + 1, self.now_ns + 5, may_lose))
        self.now_ns += 10

    def refuse_in_postgres(self, booking: str) -> None:
        """Postgres refuses the reservation; its seats come back."""
        held = self.stock.bookings[booking]
        position = held.position
        for verb in ("reserve", "reject"):
            if verb == "reject":
                self._move(held, "reject", "cancelled")
                position = held.position
            self.dead_letters.append(DeadLetter(TAG, position, booking, "22000 poisoned", True))

    # What is left of it.

    def evidence(self) -> Evidence:
        """What the checker gets to see after the quiet time."""
        epoch = self.position >> SEQ_BITS << SEQ_BITS
        steps = [*self.steps, Offset(epoch, self.position)] if self.position != epoch else self.steps
        refused = {letter.booking for letter in self.dead_letters}
        rows = {id_: row for id_, row in self.stock.bookings.items() if id_ not in refused}
        postgres = Postgres(
            copy.deepcopy(rows),
            copy.deepcopy(self.stock.zones),
            {TAG: self.position},
            {TAG: steps.copy()},
            self.dead_letters,
        )
        return Evidence(self.run, self.operations, self.entries, postgres, {TAG: self._cell()})

    def _cell(self) -> Cell:
        epoch, _, seq = position_text(self.position).partition("-")
        cell = Cell({"epoch": epoch, "seq": seq}, now_ms=self.now_ms, ledger=self.ledger)
        cell.zones, cell.bookings = copy.deepcopy(self.stock.zones), copy.deepcopy(self.stock.bookings)
        for id_, booking in self.stock.bookings.items():
            if booking.is_live:
                buyer = cell.buyers.setdefault(booking.user, Buyer(0, {}))
                buyer.units += booking.quantity
            if booking.status == "reserved":
                cell.buyers[booking.user].holds[id_] = booking.expires_at_ms
                cell.deadlines |= {(zone, booking.expires_at_ms, id_) for zone, _ in booking.items}
        return cell

    # How it is done.

    def _asked(self, verb: str, user: str, **more: Any) -> Asked:
        self.now_ns += 10
        return Asked(len(self.operations), verb, self.now_ns, user, EVENT, **more)

    def _told(self, asked: Asked, answer: Answered | None) -> Operation:
        self.now_ns += 10
        if answer is not None:
            answer.answered_ns = self.now_ns
        self.operations.append(Operation("toy", asked, answer))
        return self.operations[-1]

    def _answer(self, http: int, code: str | None = None, **more: Any) -> Answered:
        return Answered(len(self.operations), 0, http, code, at=position_text(self.position), **more)

    def _reserve(self, asked: Asked, wanted: Items) -> Answered:
        known = self.stock.keys.get((asked.user, asked.key or ""))
        if known is not None:
            held = self.stock.bookings[known]
            if held.items != wanted:
                return self._answer(422, "IDEMPOTENCY_KEY_REUSED")
            return self._granted(held, replayed=True)
        units = sum(quantity for _, quantity in wanted)
        mine = self.stock.of_user.setdefault(asked.user, [])
        for held in mine:
            self._expire_if_due(held)
        have = sum(held.quantity for held in mine if held.is_live)
        if have + units > LIMIT:
            details = Details(requested=units, held=have, limit=LIMIT)
            return self._answer(409, "MAX_PER_USER_EXCEEDED", details=details)
        for zone, quantity in wanted:
            if self.stock.zones[zone].available < quantity:
                self.sweep()
        for zone, quantity in wanted:
            available = self.stock.zones[zone].available
            if available < quantity:
                details = Details(zone_id=zone, requested=quantity, available=available)
                return self._answer(409, "INSUFFICIENT_STOCK", details=details)
        return self._granted(self._take(asked, wanted, units))

    def _take(self, asked: Asked, wanted: Items, units: int) -> Booking:
        self._bookings_made += 1
        if asked.key is None:
            id_, fingerprint = f"{PREFIX}a000-{self._bookings_made:012x}", None
        else:
            own = hashlib.blake2b((asked.user + asked.key).encode(), digest_size=6).hexdigest()
            id_, fingerprint = f"{PREFIX}b000-{own}", "f" * 32
            self.stock.keys[asked.user, asked.key] = id_
        expires_at_ms = self.now_ms + HOLD_TTL_MS
        items = [[zone, quantity, 0, "show"] for zone, quantity in wanted]
        held = Booking(
            id_, asked.user, "reserved", 1, fingerprint, units, 0, "EUR", self.now_ms, expires_at_ms,
            None, None, None, self.position + 1, wanted,
        )  # fmt: skip
        self.stock.bookings[id_] = self.stock.holds[id_] = held
        self.stock.of_user[asked.user].append(held)
        for zone, quantity in wanted:
            self.stock.zones[zone].available -= quantity
            self.stock.zones[zone].reserved += quantity
        self._append("reserve", id_, asked.user, fingerprint or "", expires_at_ms, "EUR", items)
        return held

    def _granted(self, held: Booking, *, replayed: bool = False) -> Answered:
        digest = f"{held.id} {held.created_at_ms}"
        return self._answer(
            201, booking=held.id, replayed=replayed, status="reserved", told=held.items, digest=digest
        )

    def _of_booking(self, held: Booking, wanted: str) -> Answered:
        if held.status == wanted:
            return self._answer(200, booking=held.id, status=held.status, durable=False, told=held.items)
        if held.status in ("reserved", "expired"):
            return self._answer(410, "RESERVATION_EXPIRED")
        return self._answer(409, "INVALID_STATE", details=Details(status=held.status))

    def _expire_if_due(self, held: Booking) -> None:
        if self._is_due(held):
            self._move(held, "expire", "expired")

    def _is_due(self, held: Booking) -> bool:
        return held.status == "reserved" and held.expires_at_ms <= self.now_ms

    def _move(self, held: Booking, verb: str, status: str) -> None:
        was = held.status
        self.stock.holds.pop(held.id, None)
        held.status, held.version, held.position = status, held.version + 1, self.position + 1
        for zone, quantity in held.items:
            counters = self.stock.zones[zone]
            counters.reserved -= quantity
            if status == "confirmed":
                counters.confirmed += quantity
            else:
                counters.available += quantity
        items = [[zone, quantity, 0, "show"] for zone, quantity in held.items]
        if status == "confirmed":
            held.confirmed_at_ms, held.code = self.now_ms, "CODE"
        else:
            held.ended_at_ms = self.now_ms
        last = held.code if status == "confirmed" else was
        self._append(verb, held.id, held.version, held.user, last, items)

    def _append(self, verb: str, *fields: Any, position: int | None = None) -> None:
        self.position = position if position is not None else self.position + 1
        id_, text = position_text(self.position), _encode([verb, self.now_ms, *fields]).decode()
        self.now_ns += 1
        self.entries.append(Entry(TAG, id_, text, self.now_ns))
        self.ledger.append((id_, text))
        if self._snapshots is not None:
            self._snapshots[self.position] = copy.deepcopy(self.stock)
