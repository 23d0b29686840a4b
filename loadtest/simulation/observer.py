"""Reads the ledger of a simulated sale from the outside, and counts for itself: who has joined, who was let
in, which passes are out, what is left. It trusts nothing that a script says of these."""

import heapq
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import msgspec

from loadtest.simulation.options import Plan
from loadtest.simulation.places import Places

PROBLEMS_MAX = 20


class Wave:
    """People who were let in together, and the slots still kept for them."""

    __slots__ = ("ends_ms", "first", "slots")

    def __init__(self, first: int, slots: int, ends_ms: int) -> None:
        self.first, self.slots, self.ends_ms = first, slots, ends_ms


class Observer:
    """What the ledger says happened, entry by entry."""

    def __init__(self, plan: Plan, place_of: Callable[[int], int]) -> None:
        self._plan = plan
        self._place_of = place_of
        """A number's place; of the entrants of a lottery it is asked once they are drawn."""
        self.places = Places(2 * plan.people)
        self.tail = self.serving = self.admitted = self.left = 0
        self.available, self.reserved, self.confirmed = plan.seats, 0, 0
        self.usage = (1, 0)
        """(basket_milli, return_permille) as admission is told next."""
        self._told_usage = (1, 0)
        """What it was told last: that counts for who is late."""
        self.passes: dict[str, int] = {}
        self._expiries: list[tuple[int, str]] = []
        self._has_spent: set[str] = set()
        self._has_joined: set[str] = set()
        self._wave_ends: list[int] = []
        self._waves: list[Wave] = []
        self._oldest_wave = 0
        self._entrants = 0
        self._is_drawn = plan.mode == "open"
        self.out_most = 0
        self.problems: list[str] = []
        """What must never be, the first few of it."""
        self.bound_broken = self.overtaken = self.other = 0
        self._verbs: dict[str, Callable[[list[Any]], None]] = {
            "join": self._join,
            "leave": self._leave,
            "freeze": self._freeze,
            "draw": self._draw,
            "admit": self._admit,
            "claim": self._claim,
            "reserve": self._reserve,
            "confirm": self._confirm,
            "cancel": self._return,
            "expire": self._return,
        }

    def read(self, entry: bytes) -> None:
        """Take in one entry."""
        fields = msgspec.json.decode(entry)
        verb = self._verbs.get(fields[0])
        if verb is not None:
            verb(fields)

    def out(self, now_ms: int) -> int:
        """Passes out and slots kept, at this moment."""
        while self._expiries and self._expiries[0][0] <= now_ms:
            expires_at_ms, user = heapq.heappop(self._expiries)
            if self.passes.get(user) == expires_at_ms:
                del self.passes[user]
        while self._oldest_wave < len(self._waves) and self._waves[self._oldest_wave].ends_ms <= now_ms:
            self._oldest_wave += 1
        return len(self.passes) + sum(wave.slots for wave in self._waves[self._oldest_wave :])

    def _wrong(self, kind: str, text: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)

    def _join(self, entry: list[Any]) -> None:
        _, _, first, users = entry
        if first != self.tail + 1:
            self._wrong("other", f"number {first} was given behind {self.tail}")
        for number, user in enumerate(users, first):
            if user in self._has_joined:
                self._wrong("other", f"{user} has two numbers")
            self._has_joined.add(user)
            if number > self._plan.people:
                self._wrong("other", f"number {number} was given to {self._plan.people} people")
            is_placed = self._is_drawn or number > self._entrants > 0
            self.places.set(self._place_of(number) if is_placed else number, True)
        self.tail = first + len(users) - 1

    def _leave(self, entry: list[Any]) -> None:
        _, at_ms, user, number, place = entry
        self.places.set(place or number, False)
        self.left += 1
        if user in self.passes:
            del self.passes[user]
        elif place and place <= self.serving and user not in self._has_spent:
            wave = self._wave(place, at_ms)
            if wave is not None:
                wave.slots -= 1

    def _freeze(self, entry: list[Any]) -> None:
        self._entrants = entry[2]

    def _draw(self, _: list[Any]) -> None:
        before, self.places = self.places, Places(2 * self._plan.people)
        for number in range(1, self.tail + 1):
            if before.is_living(number):
                self.places.set(self._place_of(number), True)
        self._is_drawn = True

    def _admit(self, entry: list[Any]) -> None:
        _, at_ms, first, last, people = entry
        if first != self.serving + 1:
            self._wrong("overtaken", f"{first} was let in behind {self.serving}")
        if people != self.places.between(first, last):
            self._wrong("overtaken", f"{people} let in of {first} to {last}")
        before = self.out(at_ms)
        self.serving = last
        self.admitted += people
        self._waves.append(Wave(first, people, at_ms + 1000 * self._plan.claim_grace_s))
        self._wave_ends.append(last)
        self._check_bound(before, before + people, self.usage)

    def _wave(self, place: int, at_ms: int) -> Wave | None:
        """The wave that keeps a slot for this place."""
        number = bisect_left(self._wave_ends, place)
        if number == len(self._waves):
            return None
        wave = self._waves[number]
        return wave if wave.ends_ms > at_ms and wave.slots > 0 else None

    def _claim(self, entry: list[Any]) -> None:
        _, at_ms, user, _, place, expires_at_ms = entry
        if place > self.serving:
            self._wrong("overtaken", f"place {place} has a pass while {self.serving} is served")
        before = self.out(at_ms)
        wave = None if user in self._has_spent else self._wave(place, at_ms)
        if wave is None:
            self._check_bound(before, before + 1, self._told_usage)
        else:
            wave.slots -= 1
        self.passes[user] = expires_at_ms
        heapq.heappush(self._expiries, (expires_at_ms, user))

    def has_told(self) -> None:
        """Admission was told what people buy."""
        self._told_usage = self.usage

    def _check_bound(self, before: int, after: int, usage: tuple[int, int]) -> None:
        basket_milli, return_permille = usage
        seats_milli = 1000 * self.available + return_permille * self.reserved
        is_within = after <= self._plan.passes_max and after * basket_milli <= seats_milli
        if not is_within and not (before == 0 and after == 1 and self.available > 0):
            self._wrong("bound_broken", f"{after} are out for {self.available} seats")
        self.out_most = max(self.out_most, after)

    def _reserve(self, entry: list[Any]) -> None:
        user, items = entry[3], entry[7]
        if self.passes.pop(user, None) is None or len(entry) < 9:
            self._wrong("bound_broken", f"{user} reserved without a pass")
        self._has_spent.add(user)
        seats = sum(item[1] for item in items)
        self.available -= seats
        self.reserved += seats

    def _confirm(self, entry: list[Any]) -> None:
        seats = sum(item[1] for item in entry[6])
        self.reserved -= seats
        self.confirmed += seats

    def _return(self, entry: list[Any]) -> None:
        seats = sum(item[1] for item in entry[6])
        if entry[5] == "reserved":
            self.reserved -= seats
        else:
            self.confirmed -= seats
        self.available += seats
