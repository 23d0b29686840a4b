"""A simulated sale from its first visitor to its last seat, tick by tick."""

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import redis

from engine.status import Status
from engine.waiting.admission import Counters, usage
from engine.waiting.estimate import Stock, outlook
from engine.waiting.lottery import Permutation
from loadtest.profile import load_profile
from loadtest.simulation.cell import START_MS, SimulatedCell
from loadtest.simulation.crowd import WAITING, Crowd, user_text
from loadtest.simulation.deeds import TICKS_PER_S, Deeds
from loadtest.simulation.draw import SimulatedDraw
from loadtest.simulation.observer import Observer
from loadtest.simulation.options import TICK_MS, Plan
from loadtest.simulation.places import Places
from loadtest.simulation.result import Point, Result, judge
from loadtest.simulation.witnesses import View, Witness, answer, pace_of

LAPSE_MAX, PEOPLE_MAX = 200, 5_000
"""As workers/admission.py has them."""
EXPIRE_MAX = 500
UNLIKELY_EVERY_S = 5
UNLIKELY_LEAVE_S = (60.0, 600.0)
"""Who gives up on being told, does so within this time."""
SOLD_SHARE = 0.999
"""The last few seats come back and go again for hours."""
POINTS_MAX = 600
PROGRESS_S = 2.0

Say = Callable[[str], None]


class Simulation:
    """One sale."""

    def __init__(self, client: "redis.Redis", plan: Plan, say: Say) -> None:
        profile = load_profile(plan.profile)
        self._client = client
        self._plan = plan
        self._say = say
        self.cell = SimulatedCell(client, plan, profile)
        self.crowd = Crowd(plan, profile)
        self.deeds = Deeds(plan, self.crowd, self.cell, self.place_of)
        self.observer = Observer(plan, self.place_of)
        self.draw: SimulatedDraw | None = None
        """Once it was drawn, where there is a lottery."""
        self._permutation: Permutation | None = None
        self._person_at = [-1] * (2 * plan.people + 1)
        """Who has which number. There is room for scripts that give somebody a second one."""
        self._known = 0
        self._ledger_after = "-"
        self._served = 0
        self._usage = usage(Counters(0, 0, 0, 0))
        self._view: View | None = None
        self._unlikely_from, self._unlikely_to = plan.people + 1, 0
        """From which place on people have been told that it is most likely in vain, and up to which."""
        rng = random.Random(plan.seed + 1)
        self._rng = rng
        chosen = sorted(rng.sample(range(plan.people), min(plan.witnesses, plan.people)))
        self.witnesses = [Witness(person) for person in chosen]
        self._begun_witnesses = 0
        self.points: list[Point] = []
        self._point_every_ticks = 4 * TICKS_PER_S
        self._out = 0

    # --- places

    def place_of(self, number: int) -> int:
        """The place of a number; 0 before the draw."""
        if self._plan.mode == "open":
            return number
        if self._permutation is None:
            return 0
        return self._permutation.place_of(number) if number <= self._permutation.entrants else number

    def _person_in(self, place: int) -> int:
        """Who stands in a place."""
        if self._permutation is not None and place <= self._permutation.entrants:
            return self._person_at[self._permutation.number_of(place)]
        return self._person_at[place]

    # --- the run

    def run(self) -> Result:
        """To the end of the sale. KeyboardInterrupt ends it early; nothing is judged then."""
        started_s = said_s = time.monotonic()
        deeds, observer = self.deeds, self.observer
        ticks_max = round(self._plan.hours_max * 3600 * TICKS_PER_S)
        while deeds.tick < ticks_max and not self._is_over():
            self._tick()
            if time.monotonic() - said_s >= PROGRESS_S:
                said_s = time.monotonic()
                self._say(
                    f"{_clock(deeds.now_s)}  {deeds.arrived:>9,} came  {self._waiting():>9,} wait  "
                    f"{self._out:>6,} passes out  {observer.available:>7,} seats left"
                )
        return judge(
            self._plan, self.crowd, deeds, observer, self.witnesses, self.points, self.place_of,
            wall_s=time.monotonic() - started_s,
        )  # fmt: skip

    def _is_over(self) -> bool:
        if self.deeds.now_s < self._plan.sale_starts_s or self.deeds.arrived < self._plan.people:
            return False
        is_sold_out = self.observer.confirmed >= SOLD_SHARE * self._plan.seats
        is_empty = self._waiting() == 0 and self._out == 0 and self.observer.reserved == 0
        return is_sold_out or is_empty

    def _waiting(self) -> int:
        return self.observer.places.between(self.observer.serving + 1, self.observer.tail)

    def _tick(self) -> None:
        deeds, cell = self.deeds, self.cell
        deeds.tick += 1
        now_ms = START_MS + deeds.tick * TICK_MS
        cell.set_clock(now_ms)
        deeds.do_what_is_due()
        is_second = deeds.tick % TICKS_PER_S == 0
        keys = cell.keys
        if is_second:
            cell.ask("expire", [keys.sale, keys.buyers, keys.ledger, keys.deadlines], [EXPIRE_MAX], _ignored)
        self.observer.usage = self._usage
        cell.ask(
            "admit",
            keys.waiting_room,
            [*self._usage, LAPSE_MAX, PEOPLE_MAX],
            self._admitted,
        )
        cell.look(("XRANGE", keys.ledger, self._ledger_after, "+"), self._read_ledger)
        if is_second:
            self._look()
        cell.send()
        self._serve()
        if self._plan.mode == "lottery" and self._permutation is None:
            self._draw_if_frozen()
        if is_second:
            self._tell()
            if deeds.tick % self._point_every_ticks == 0:
                self._note()

    def _admitted(self, reply: list[Any]) -> None:
        if reply[0] == Status.OK:
            self._out = reply[4]

    def _read_ledger(self, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        for _, fields in entries:
            self.observer.read(fields[b"e"])
        self.observer.has_told()
        if entries:
            last = entries[-1][0].decode()
            self._ledger_after = "(" + last
            self._client.xtrim(self.cell.keys.ledger, minid=last, approximate=True)

    def _serve(self) -> None:
        """Tell those whose turn has come, and learn who has which number."""
        while self._known < self.deeds.arrived and self.crowd.number[self._known]:
            self._person_at[self.crowd.number[self._known]] = self._known
            self._known += 1
        while self._served < self.observer.serving:
            self._served += 1
            if self.observer.places.is_living(self._served) and self._person_in(self._served) >= 0:
                self.deeds.serve(self._person_in(self._served))

    def _draw_if_frozen(self) -> None:
        keys = self.cell.keys
        entrants = self._client.hget(keys.queue, "entrants")
        if entrants is None:
            return
        before: Places = self.observer.places
        users = [
            user_text(self._person_at[number]) if before.is_living(number) else None
            for number in range(1, int(entrants) + 1)
        ]
        now_ms = START_MS + self.deeds.tick * TICK_MS
        self.draw = SimulatedDraw(self.cell.event_id, users, self._plan.seed + 2, now_ms)
        permutation = Permutation(self.draw.key, int(entrants))
        gone = bytearray(-(-int(entrants) // 8))
        for number in range(1, int(entrants) + 1):
            if not before.is_living(number):
                place = permutation.place_of(number)
                gone[(place - 1) // 8] |= 128 >> (place - 1) % 8
        count = self._client.bitcount(keys.gone)
        self._permutation = permutation
        self.cell.ask(
            "draw",
            [keys.sale, keys.queue, keys.gone, keys.ledger],
            [self.draw.key.hex(), count, bytes(gone)],
            _must_be_ok,
        )
        self.cell.send()

    # --- what gateways and workers look at, once a second

    def _look(self) -> None:
        keys = self.cell.keys
        counters: list[list[int]] = []

        def counted(reply: list[bytes]) -> None:
            counters.append([int(count) for count in reply])

        def looked(reply: list[bytes | None]) -> None:
            moves = [tuple(map(int, move.split(b":"))) for move in (reply[0] or b"").split()]
            spent, units, admitted = (int(field or 0) for field in reply[1:])
            available, reserved, confirmed = (sum(column) for column in zip(*counters, strict=True))
            self._usage = usage(Counters(spent, units, reserved, confirmed))
            stock = Stock(available, reserved, self._out, *self._usage, admitted, units, spent)
            starts_in_s = max(self._plan.sale_starts_s - self.deeds.now_s, 0.0)
            self._view = View(moves, stock, START_MS + self.deeds.tick * TICK_MS, starts_in_s)  # type: ignore[arg-type]

        for zone_key in self.cell.zone_keys:
            self.cell.look(("HMGET", zone_key, "available", "reserved", "confirmed"), counted)
        self.cell.look(("HMGET", keys.queue, "moves", "spent", "units", "admitted"), looked)

    def _ahead(self, place: int) -> int:
        return self.observer.places.between(self.observer.serving + 1, place - 1)

    def _tell(self) -> None:
        """Begin to witness who has come, and give up hope for those for whom there is none."""
        while (
            self._begun_witnesses < len(self.witnesses)
            and self.crowd.number[self.witnesses[self._begun_witnesses].person]
        ):
            number = self._begun_witnesses
            self._begun_witnesses += 1
            self._poll(number)
        if self.deeds.tick % (UNLIKELY_EVERY_S * TICKS_PER_S) == 0 and self._has_places():
            self._lose_hope()

    def _has_places(self) -> bool:
        return self._plan.mode == "open" or self._permutation is not None

    def _poll(self, number: int) -> None:
        """One witness asks for their state."""
        witness = self.witnesses[number]
        if not self.deeds.is_there(witness.person) or self._view is None:
            return
        place = self.place_of(self.crowd.number[witness.person])
        if not place:
            self.deeds.later(UNLIKELY_EVERY_S, self._poll, number)
            return
        told, pause_s = answer(
            self._view,
            pace_of(self._plan, self._view),
            self._ahead(place),
            self.deeds.now_s,
            self._rng.random(),
        )
        witness.hear(told)
        self.deeds.later(pause_s, self._poll, number)

    def _lose_hope(self) -> None:
        """Whoever has more people ahead than this is told `unlikely`, and some give up then."""
        assert self._view is not None
        before, tail = self._unlikely_from, self.observer.tail
        low, high = self.observer.serving + 1, tail + 1
        while low < high:
            middle = (low + high) // 2
            if outlook(self._ahead(middle), self._view.stock) == "unlikely":
                high = middle
            else:
                low = middle + 1
        newly = (range(low, min(before, tail + 1)), range(max(low, before, self._unlikely_to + 1), tail + 1))
        for place in itertools.chain(*newly):
            person = self._person_in(place)
            if (
                person >= 0
                and self.crowd.state[person] == WAITING
                and self.crowd.happens(self._plan.unlikely_leave_share)
            ):
                self.deeds.later(self._rng.uniform(*UNLIKELY_LEAVE_S), self.deeds.leave, person)
        self._unlikely_from, self._unlikely_to = min(low, before), tail

    def _note(self) -> None:
        """One point of the picture."""
        observer, waited = self.observer, self.deeds.waited_s
        wait_s = sum(waited) / len(waited) if waited else None
        waited.clear()
        self.points.append(
            Point(
                self.deeds.now_s, self._waiting(), self._out, observer.available, observer.reserved,
                observer.confirmed, observer.admitted, wait_s,
            )
        )  # fmt: skip
        if len(self.points) == POINTS_MAX:
            self.points = self.points[1::2]
            self._point_every_ticks *= 2


def _ignored(_: Any) -> None:
    pass


def _must_be_ok(reply: list[Any]) -> None:
    assert Status(reply[0]) == Status.OK, reply


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
