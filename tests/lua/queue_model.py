"""The waiting room as plain Python: slow, obvious, and written from its description, not from the scripts."""

from typing import Any, NamedTuple

import msgspec

from engine.status import Status

BURST_US = 1_000_000
Told = tuple[Status, tuple[Any, ...]]
"""A status and what comes with it."""


class Wave(msgspec.Struct):
    """People who were let in together, and how many of their slots are kept."""

    first: int
    last: int
    people: int
    served_at_ms: int
    slots: int

    def is_over(self, grace_ms: int, now_ms: int) -> bool:
        """Whether nothing is kept any more."""
        return self.served_at_ms + grace_ms <= now_ms


class Hold(msgspec.Struct):
    """A booking of one zone."""

    user: str
    quantity: int
    expires_at_ms: int
    status: str = "reserved"


class Room(NamedTuple):
    """How the waiting room is set up; with a permutation it is a lottery."""

    interval_us: int
    passes_max: int
    pass_ttl_ms: int
    grace_ms: int
    opens_at_ms: int
    draws: tuple[int, ...]
    """In a lottery, what the draw decides: sorted by these numbers, the first comes first."""

    @property
    def is_lottery(self) -> bool:
        """Whether who joins before the opening takes part in a draw."""
        return bool(self.draws)


class QueueModel:
    """Everybody who waits, is served, has a pass or has spent it."""

    def __init__(self, room: Room, capacity: int, hold_ttl_ms: int, now_ms: int) -> None:
        self.room = room
        self.available = capacity
        self.hold_ttl_ms = hold_ttl_ms
        self.now_ms = now_ms
        self.is_paused = False
        self.status = "published"
        self.numbers: dict[str, int] = {}
        self.tail = 0
        self.entrants: int | None = None
        self.drawn: list[int] | None = None
        """The place of each entrant, in the order of their numbers."""
        self.gone: set[int] = set()
        """Numbers before the draw, places after it."""
        self.serving = 0
        self.passes: dict[str, int] = {}
        self.spent: dict[str, str] = {}
        self.waves: list[Wave] = []
        self.bookings: dict[str, Hold] = {}
        self.full_at_us = 0
        self.totals = {"admitted": 0, "claimed": 0, "spent": 0, "units": 0, "lapsed": 0}
        self.usage = (2_000, 0)
        self.ledger: list[list[Any]] = []

    # --- what there is

    @property
    def is_on_sale(self) -> bool:
        """Whether seats are sold."""
        return self.status == "published"

    @property
    def has_order(self) -> bool:
        """Whether it is known who comes before whom."""
        return not self.room.is_lottery or self.drawn is not None

    @property
    def reserved(self) -> int:
        """Units that are held."""
        return sum(hold.quantity for hold in self.bookings.values() if hold.status == "reserved")

    def place_of(self, number: int) -> int:
        """The place of a number, 0 where it has none yet."""
        if not self.room.is_lottery:
            return number
        if self.drawn is None:
            return 0
        assert self.entrants is not None
        return self.drawn[number - 1] if number <= self.entrants else number

    def out(self) -> int:
        """Who may try now: passes that have not run out, and slots that are kept."""
        passes = sum(expires_at_ms > self.now_ms for expires_at_ms in self.passes.values())
        return passes + sum(w.slots for w in self.waves if not w.is_over(self.room.grace_ms, self.now_ms))

    def left(self) -> int:
        """How many more may be out."""
        basket_milli, return_permille = self.usage
        stock_milli = self.available * 1_000 + self.reserved * return_permille
        people_max = min(self.room.passes_max, stock_milli // basket_milli)
        if self.out() == 0 and self.available:
            people_max = max(people_max, 1)
        return max(people_max - self.out(), 0)

    def freeze(self) -> None:
        """Who is there now takes part."""
        if self.room.is_lottery and self.entrants is None and self.now_ms >= self.room.opens_at_ms:
            self.entrants = self.tail
            self.ledger.append(["freeze", self.now_ms, self.tail])

    # --- what people do

    def join(self, users: list[str]) -> list[Told]:
        """One call."""
        may_join = self.status != "cancelled" and (
            self.room.is_lottery or self.now_ms >= self.room.opens_at_ms
        )
        self.freeze()
        first, new, told = self.tail + 1, [], []
        for user in users:
            if user in self.numbers:
                told.append((Status.REPLAYED, (self.numbers[user],)))
            elif not may_join:
                told.append((Status.SALE_NOT_OPEN, ()))
            else:
                self.tail += 1
                self.numbers[user] = self.tail
                new.append(user)
                told.append((Status.OK, (self.tail,)))
        if new:
            self.ledger.append(["join", self.now_ms, first, new])
        return told

    def leave(self, user: str, number: int) -> Told:
        """Give a place up."""
        if self.numbers.get(user) != number:
            return Status.PLACE_UNKNOWN, ()
        self.freeze()
        place = self.place_of(number)
        self.ledger.append(["leave", self.now_ms, user, number, place])
        if not (user in self.passes or user in self.spent):
            self._give_slot_up(place)
        del self.numbers[user]
        self.gone.add(place or number)
        self.passes.pop(user, None)
        self.spent.pop(user, None)
        return Status.OK, ()

    def _give_slot_up(self, place: int) -> bool:
        if not 0 < place <= self.serving:
            return False
        for wave in self.waves:
            is_kept = wave.slots and not wave.is_over(self.room.grace_ms, self.now_ms)
            if wave.first <= place <= wave.last and is_kept:
                wave.slots -= 1
                if not wave.slots:
                    self.waves.remove(wave)
                return True
        return False

    def claim(self, user: str, number: int) -> Told:
        """Ask for a pass."""
        if self.passes.get(user, 0) > self.now_ms:
            return Status.REPLAYED, (self.passes[user],)
        place = self.place_of(number)
        hold = self.bookings.get(self.spent.get(user, ""))
        if not self.is_on_sale:
            return Status.SALE_NOT_OPEN, ()
        if self.numbers.get(user) != number or user in self.passes:
            return Status.PLACE_UNKNOWN, ()
        if not 0 < place <= self.serving:
            return Status.NOT_SERVED, ()
        if hold and hold.status in ("reserved", "confirmed"):
            return Status.PASS_SPENT, ()
        has_slot = user not in self.spent and self._give_slot_up(place)
        if not has_slot and self.left() < 1:
            return Status.NO_ROOM, ()
        expires_at_ms = self.now_ms + self.room.pass_ttl_ms
        self.passes[user] = expires_at_ms
        self.spent.pop(user, None)
        self.totals["claimed"] += 1
        self.ledger.append(["claim", self.now_ms, user, number, place, expires_at_ms])
        return Status.OK, (expires_at_ms,)

    def reserve(self, user: str, booking: str, quantity: int, queue_pass: str) -> Status:
        """Try to book."""
        if not self.is_on_sale:
            return Status.SALE_NOT_OPEN
        is_needed = self.room.is_lottery or self.now_ms >= self.room.opens_at_ms
        if is_needed and not queue_pass:
            return Status.PASS_REQUIRED
        until_ms = self.passes.get(user, 0)
        if is_needed and (queue_pass != str(until_ms) or until_ms <= self.now_ms):
            return Status.PASS_INVALID
        if quantity > self.available:
            return Status.INSUFFICIENT_STOCK
        self.available -= quantity
        self.bookings[booking] = Hold(user, quantity, self.now_ms + self.hold_ttl_ms)
        if is_needed:
            del self.passes[user]
            self.spent[user] = booking
            self.totals["spent"] += 1
            self.totals["units"] += quantity
        self.ledger.append(["reserve", booking, int(is_needed)])
        return Status.OK

    def end(self, booking: str, status: str) -> None:
        """A hold is confirmed, or its seats come back."""
        self.bookings[booking].status = status
        if status != "confirmed":
            self.available += self.bookings[booking].quantity

    # --- what workers do

    def admit(self, people_max: int, usage: tuple[int, int]) -> tuple[int, int, int, int]:
        """Take back what ended, and let people in."""
        self.freeze()
        self.usage = usage
        lapsed = sorted(
            ((until_ms, user) for user, until_ms in self.passes.items() if until_ms <= self.now_ms),
        )
        if lapsed:
            self.ledger.append(["lapse", self.now_ms, [[user, self.numbers[user]] for _, user in lapsed]])
        for _, user in lapsed:
            del self.passes[user], self.numbers[user]
            self.totals["lapsed"] += 1
        self.waves = [wave for wave in self.waves if not wave.is_over(self.room.grace_ms, self.now_ms)]
        out = self.out()
        burst = max(BURST_US // self.room.interval_us, 1)
        last_full_us = self.now_ms * 1_000 + burst * self.room.interval_us
        full_at_us = max(self.full_at_us, self.now_ms * 1_000)
        wanted = min(people_max, (last_full_us - full_at_us) // self.room.interval_us, self.left())
        living = [place for place in range(self.serving + 1, self.tail + 1) if place not in self.gone]
        wave = living[:wanted] if self.is_on_sale and not self.is_paused and self.has_order else []
        if wave:
            first, last = self.serving + 1, wave[-1]
            self.ledger.append(["admit", self.now_ms, first, last, len(wave)])
            self.waves.append(Wave(first, last, len(wave), self.now_ms, len(wave)))
            self.serving = last
            self.totals["admitted"] += len(wave)
            self.full_at_us = full_at_us + len(wave) * self.room.interval_us
        return self.serving, len(wave), out + len(wave), self.tail

    def draw(self) -> tuple[int, set[int]]:
        """What the lottery worker computes: how many are gone by number, and who by place."""
        assert self.entrants is not None
        order = sorted(range(self.entrants), key=lambda i: (self.room.draws[i % len(self.room.draws)], i))
        places = [0] * self.entrants
        for place, index in enumerate(order, 1):
            places[index] = place
        return len(self.gone), {places[n - 1] if n <= self.entrants else n for n in self.gone}

    def drew(self, places: set[int]) -> None:
        """The draw is told."""
        assert self.entrants is not None
        order = sorted(range(self.entrants), key=lambda i: (self.room.draws[i % len(self.room.draws)], i))
        self.drawn = [0] * self.entrants
        for place, index in enumerate(order, 1):
            self.drawn[index] = place
        self.gone = set(places)
        self.ledger.append(["draw", self.now_ms])
