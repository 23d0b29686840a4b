"""What a cell is after so many entries: a model of the inventory, and nothing of how the product keeps it."""

import heapq
from typing import Any

import msgspec

from tests.drills import history
from tests.drills.checker_evidence import Edit

AVAILABLE, RESERVED, CONFIRMED, BLOCKED, CAPACITY = range(5)


class Held(msgspec.Struct, frozen=True, gc=False):
    """A booking."""

    user: str
    status: str
    version: int
    items: tuple[tuple[str, int], ...]
    units: int
    expires_at_ms: int
    position: int
    fingerprint: str
    code: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether it holds seats."""
        return self.status in ("reserved", "confirmed")


class Sale(msgspec.Struct, frozen=True):
    """What decides whether somebody may reserve."""

    status: str
    start_ms: int
    end_ms: int
    limit: int
    hold_ttl_ms: int

    def is_open(self, at_ms: int) -> bool:
        """Whether the sale is on at that time."""
        return (
            self.status == "published"
            and at_ms >= self.start_ms
            and not (self.end_ms and at_ms >= self.end_ms)
        )

    def after(self, intent: dict[str, Any]) -> "Sale":
        """What an organizer's intent makes of it."""
        wish = intent.get("sale") or {}
        return Sale(
            wish.get("status", self.status),
            wish.get("sale_start_at_ms", self.start_ms),
            wish.get("sale_end_at_ms", self.end_ms),
            wish.get("max_per_user", self.limit),
            wish.get("hold_ttl_ms", self.hold_ttl_ms),
        )


class State:
    """The cell."""

    def __init__(self, event: history.Event, edits: list[Edit]) -> None:
        self.zones = {
            zone.id: [zone.capacity - zone.blocked, 0, 0, zone.blocked, zone.capacity] for zone in event.zones
        }
        self.units: dict[str, int] = {}
        self.bookings: dict[str, Held] = {}
        self.holds_of: dict[str, tuple[str, ...]] = {}
        self.sale = Sale("published", event.sale_start_at_ms, 0, event.max_per_user, event.hold_ttl_ms)
        self.version = 0
        self.edits = edits
        self.time_ms = 0
        self._due: dict[str, list[tuple[int, str]]] = {}

    def copy(self) -> "State":
        """Another one, which goes its own way from here."""
        other: State = object.__new__(State)
        vars(other).update(vars(self))
        other.zones = {zone: counters.copy() for zone, counters in self.zones.items()}
        other._due = {zone: due.copy() for zone, due in self._due.items()}
        other.units, other.bookings, other.holds_of = (
            self.units.copy(),
            self.bookings.copy(),
            self.holds_of.copy(),
        )
        return other

    def reserve(self, booking: str, held: Held) -> None:
        """A new hold."""
        for zone, quantity in held.items:
            counters = self.zones[zone]
            counters[AVAILABLE] -= quantity
            counters[RESERVED] += quantity
            due = self._due.get(zone)
            if due is None:
                due = self._due[zone] = []
            heapq.heappush(due, (held.expires_at_ms, booking))
        user = held.user
        self.units[user] = self.units.get(user, 0) + held.units
        self.bookings[booking] = held
        self.holds_of[user] = (*self.holds_of.get(user, ()), booking)

    def move(
        self, booking: str, before: Held, status: str, version: int, position: int, code: str | None
    ) -> None:
        """A booking's next state."""
        origin = RESERVED if before.status == "reserved" else CONFIRMED
        target = CONFIRMED if status == "confirmed" else AVAILABLE
        for zone, quantity in before.items:
            counters = self.zones[zone]
            counters[origin] -= quantity
            counters[target] += quantity
        user = before.user
        if status != "confirmed":
            self.units[user] -= before.units
        self.holds_of[user] = tuple(each for each in self.holds_of.get(user, ()) if each != booking)
        self.bookings[booking] = Held(
            user,
            status,
            version,
            before.items,
            before.units,
            before.expires_at_ms,
            position,
            before.fingerprint,
            code or before.code,
        )

    def edit(self, version: int, is_applied: bool, changes: tuple[tuple[str, int, int, int], ...]) -> None:
        """An intent was decided."""
        self.version = version
        if is_applied:
            for intent in (each.intent for each in self.edits if each.version == version):
                self.sale = self.sale.after(intent)
        for zone, capacity, available, blocked in changes:
            counters = self.zones.setdefault(zone, [0, 0, 0, 0, 0])
            counters[CAPACITY] += capacity
            counters[AVAILABLE] += available
            counters[BLOCKED] += blocked

    def sales(self) -> list[Sale]:
        """The sale as it is, and as it may be already: a rebuilt cell has what the organizer last wished, and
        the entries that decide the wishes follow."""
        sales = [self.sale]
        for edit in self.edits:
            if edit.version > self.version:
                sales.append(sales[-1].after(edit.intent))
        return sales

    def next_due(self, zone: str) -> tuple[int, str] | None:
        """The hold of a zone that is due first."""
        due = self._due.get(zone)
        while due:
            expires_at_ms, booking = due[0]
            held = self.bookings.get(booking)
            if held is not None and held.status == "reserved" and held.expires_at_ms == expires_at_ms:
                return due[0]
            heapq.heappop(due)
        return None
