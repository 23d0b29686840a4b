"""What the people of a simulated sale do, and what they make of the answers."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from engine.status import Status
from loadtest.simulation.cell import SimulatedCell
from loadtest.simulation.crowd import (
    AWAY,
    BOUGHT,
    CHOOSING,
    EMPTY,
    HOLDING,
    LEFT,
    SERVED,
    WAITING,
    Crowd,
    user_bytes,
    user_text,
)
from loadtest.simulation.options import TICK_MS, Plan

JOINS_MAX = 500
"""People in one call. A gateway gathers fewer: it must not let others wait."""
TICKS_PER_S = 1000 // TICK_MS
NO_ROOM_S = 2.0
SHORT_S = 3.0
"""Before somebody who found too few seats tries something else."""
TRIES_MAX = 5
TABS_S = 300.0
PUSHERS_SHARE = 0.01
"""Who presses the button without a pass."""
NOTICED_S = 2.0
"""Within such a time a page that is about to be served asks again."""
RATE = (1, 1_000)
"""A rate limit that nobody meets: interval in ms, burst."""
DUE_MAX = 32


class Deeds:
    """The agenda of everybody."""

    def __init__(self, plan: Plan, crowd: Crowd, cell: SimulatedCell, place_of: Callable[[int], int]) -> None:
        self._plan = plan
        self._crowd = crowd
        self._cell = cell
        self._place_of = place_of
        self._agenda: dict[int, list[tuple[Callable[[int], None], int]]] = defaultdict(list)
        self.tick = 0
        self.arrived = 0
        self._pass: dict[int, int] = {}
        self._booking: dict[int, str] = {}
        self._tries: dict[int, int] = {}
        self.sold_out: set[str] = set()
        """Zones in which nothing was left."""
        self.silent = bytearray(plan.people)
        """Who has closed the window."""
        self.served_at_s: dict[int, float] = {}
        self.lost_grace: set[int] = set()
        """Who is late, or comes again: they have no right to be let in at once."""
        self.turned_away = 0
        """In their grace and not let in: must stay 0."""
        self.two_numbers = 0
        self.waited_s: list[float] = []
        """Of those served since this was last looked at."""

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return self.tick / TICKS_PER_S

    @property
    def is_idle(self) -> bool:
        """Whether everybody has come and nobody is going to do anything."""
        return self.arrived == self._plan.people and not self._agenda

    def later(self, delay_s: float, deed: Callable[[int], None], person: int) -> None:
        """Have somebody do something, in the next tick at the earliest."""
        self._agenda[self.tick + max(1, math.ceil(delay_s * TICKS_PER_S))].append((deed, person))

    def do_what_is_due(self) -> None:
        """Ask all that this tick's people ask."""
        self._arrive()
        for deed, person in self._agenda.pop(self.tick, ()):
            deed(person)

    # --- joining and waiting

    def _arrive(self) -> None:
        until = self._crowd.arrived_by(self.now_s)
        for first in range(self.arrived, until, JOINS_MAX):
            self._join(list(range(first, min(first + JOINS_MAX, until))))
        self.arrived = until

    def _join(self, people: list[int]) -> None:
        keys = self._cell.keys
        arguments: list[Any] = [len(people)]
        for person in people:
            arguments += (user_bytes(person), user_text(person), 0)

        def joined(answers: list[Any]) -> None:
            for person, (status, _, number) in zip(people, answers, strict=True):
                if self._crowd.number[person]:
                    self.two_numbers += number != self._crowd.number[person]
                elif status == Status.OK:
                    self._begin_waiting(person, number)

        self._cell.ask(
            "join", [keys.sale, keys.queue, keys.places, keys.gone, keys.ledger], arguments, joined
        )

    def _begin_waiting(self, person: int, number: int) -> None:
        crowd, plan = self._crowd, self._plan
        crowd.number[person] = number
        crowd.state[person] = WAITING
        crowd.joined_s[person] = self.now_s
        if crowd.happens(plan.impatient_share):
            self.later(crowd.patience_s(), self.leave, person)
        if crowd.happens(plan.tabs_share):
            self.later(crowd.within_s(TABS_S), self._join_again, person)
        if crowd.happens(PUSHERS_SHARE):
            self.later(plan.opens_before_s + crowd.within_s(TABS_S), self._push, person)

    def _join_again(self, person: int) -> None:
        if self._crowd.state[person] == WAITING:
            self._join([person])

    def leave(self, person: int) -> None:
        """Give the place up; half of them only close the window."""
        crowd = self._crowd
        if crowd.state[person] != WAITING or self.silent[person]:
            return
        if crowd.happens(0.5):
            self.silent[person] = True
            crowd.ended_s[person] = self.now_s
            return
        number = crowd.number[person]

        def left(reply: list[Any]) -> None:
            if reply[0] == Status.OK:
                if crowd.state[person] == WAITING:
                    crowd.ended_s[person] = self.now_s
                crowd.state[person] = LEFT

        self._ask("leave", person, left, number, self._place_of(number))

    def _ask(self, name: str, person: int, told: Callable[[Any], None], number: int, place: int) -> None:
        keys = self._cell.keys
        self._cell.ask(
            name,
            keys.waiting_room,
            [user_bytes(person), user_text(person), number, place],
            told,
        )

    # --- passes

    def serve(self, person: int) -> None:
        """Their turn has come."""
        crowd, plan = self._crowd, self._plan
        if crowd.state[person] != WAITING:
            return
        self.served_at_s[person] = self.now_s
        self.waited_s.append(self.now_s - max(crowd.joined_s[person], plan.room_opens_s))
        crowd.state[person] = SERVED
        if self.silent[person]:
            return
        crowd.ended_s[person] = self.now_s
        if not crowd.happens(plan.no_show_share):
            self.later(crowd.within_s(NOTICED_S) + crowd.takes_s(plan.notice_s), self._claim, person)

    def _claim(self, person: int) -> None:
        crowd = self._crowd
        if crowd.state[person] != SERVED:
            return
        number = crowd.number[person]
        if self.now_s - self.served_at_s[person] >= self._plan.claim_grace_s:
            self.lost_grace.add(person)

        def claimed(reply: list[Any]) -> None:
            if reply[0] == Status.OK:
                self._pass[person] = reply[2]
                crowd.state[person] = CHOOSING
                if not crowd.happens(self._plan.forget_share):
                    self.later(crowd.takes_s(self._plan.choose_s), self._reserve, person)
            elif reply[0] == Status.NO_ROOM:
                self.turned_away += person not in self.lost_grace
                self.later(NO_ROOM_S, self._claim, person)
            else:
                crowd.state[person] = EMPTY
                crowd.ended_s[person] = self.now_s

        self._ask("claim", person, claimed, number, self._place_of(number))

    # --- seats

    def _basket(self, person: int) -> tuple[tuple[str, int], ...]:
        """What they want; of what is left, where they found too little before."""
        tries = self._tries.get(person, 0)
        basket = self._crowd.basket()
        if not tries and not any(name in self.sold_out for name, _ in basket):
            return basket
        left = [name for name in self._cell.zones if name not in self.sold_out]
        return ((self._crowd.any_of(left or list(self._cell.zones)), 1),)

    def _push(self, person: int) -> None:
        """Try without a pass; the observer sees it if that succeeds."""
        if self._crowd.state[person] == WAITING:
            self._ask_seats(person, self._cell.new_booking(), self._crowd.basket(), "", lambda _: None)

    def _reserve(self, person: int) -> None:
        crowd = self._crowd
        if crowd.state[person] != CHOOSING:
            return
        booking, basket = self._cell.new_booking(), self._basket(person)

        def reserved(answers: list[Any]) -> None:
            status, _, *detail = answers[0]
            if status == Status.OK:
                self._booking[person] = booking
                self._hold(person)
            elif status == Status.INSUFFICIENT_STOCK:
                self._find_less(person, int(detail[2]), basket)
            elif status == Status.HOLDS_DUE:
                self.later(SHORT_S, self._reserve, person)
            else:
                crowd.state[person] = EMPTY

        self._ask_seats(person, booking, basket, self._pass[person], reserved)

    def _ask_seats(
        self,
        person: int,
        booking: str,
        basket: tuple[tuple[str, int], ...],
        shown: int | str,
        told: Callable[[list[Any]], None],
    ) -> None:
        user, keys = user_text(person), self._cell.keys
        zones = [self._cell.zones[name] for name, _ in basket]
        arguments: list[Any] = [1, *RATE, DUE_MAX, user, booking, "", shown, len(basket)]
        for zone, (_, quantity) in zip(zones, basket, strict=True):
            arguments += (zone, "", quantity)
        self._cell.ask(
            "reserve",
            [
                *(keys.sale, keys.buyers, keys.ledger, keys.deadlines, keys.passes, keys.spent, keys.queue),
                *(keys.rate(user), keys.booking(booking)),
                *map(keys.zone, zones),
            ],
            arguments,
            told,
        )

    def _find_less(self, person: int, available: int, basket: tuple[tuple[str, int], ...]) -> None:
        if available == 0 and len(basket) == 1:
            self.sold_out.add(basket[0][0])
        self._tries[person] = self._tries.get(person, 0) + 1
        if self._tries[person] > TRIES_MAX:
            self._crowd.state[person] = EMPTY
            return
        self.later(SHORT_S, self._reserve, person)

    def _hold(self, person: int) -> None:
        crowd, plan = self._crowd, self._plan
        crowd.state[person] = HOLDING
        kind = crowd.share()
        if kind < plan.unpaid_share:
            self.later(plan.hold_ttl_s + crowd.within_s(30.0), self._come_again, person)
        elif kind < plan.unpaid_share + plan.cancel_share:
            self.later(crowd.takes_s(plan.pay_s), self._cancel, person)
        else:
            self.later(crowd.takes_s(plan.pay_s, 0.7), self._confirm, person)

    def _end(self, name: str, person: int, further: list[Any], told: Callable[[Any], None]) -> None:
        keys, booking = self._cell.keys, self._booking[person]
        self._cell.ask(
            name,
            [keys.sale, keys.buyers, keys.ledger, keys.deadlines, keys.booking(booking)],
            [booking, user_text(person), *further],
            told,
        )

    def _confirm(self, person: int) -> None:
        def confirmed(reply: list[Any]) -> None:
            if reply[0] == Status.OK:
                self._crowd.state[person] = BOUGHT
            else:
                self._come_again(person)

        self._end("confirm", person, ["CODE", 1], confirmed)

    def _cancel(self, person: int) -> None:
        def cancelled(_: list[Any]) -> None:
            # Where they give seats back, there is something in every zone of it again.
            self.sold_out.clear()
            self._come_again(person)

        self._end("cancel", person, [], cancelled)

    def _come_again(self, person: int) -> None:
        """Their booking ended without a sale; some want another one, with the place that they had."""
        crowd = self._crowd
        self.sold_out.clear()
        self._tries.pop(person, None)
        self.lost_grace.add(person)
        crowd.state[person] = SERVED
        if crowd.happens(self._plan.return_share):
            self.later(crowd.takes_s(self._plan.notice_s), self._claim, person)

    def is_there(self, person: int) -> bool:
        """Whether somebody waits, with their window open."""
        return self._crowd.state[person] == WAITING and not self.silent[person]

    def has_come(self, person: int) -> bool:
        """Whether somebody has been there at all."""
        return self._crowd.state[person] != AWAY
