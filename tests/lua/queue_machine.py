"""The state machine of the waiting room: the same random operations on its model and on the scripts."""

import json
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.status import Status
from tests.lua.cellkit import START_MS, Answer, Backend, Zone
from tests.lua.machine import check_invariants
from tests.lua.queue_model import QueueModel, Room
from tests.lua.queuekit import Person, QueueCell

USERS = tuple(f"0000000{number}-0000-4000-8000-000000000000" for number in range(8))
HOLD_TTL_MS = 9_000
KEY = "5e" * 32

users = st.sampled_from(USERS)
rooms = st.builds(
    Room,
    interval_us=st.sampled_from([10, 10, 250_000, 1_500_000]),
    passes_max=st.sampled_from([1, 2, 3, 50]),
    pass_ttl_ms=st.sampled_from([5_000, 7_000]),
    grace_ms=st.sampled_from([1_000, 3_000, 6_000]),
    opens_at_ms=st.sampled_from([START_MS, START_MS + 1_000]),
    draws=st.one_of(st.just(()), st.lists(st.integers(0, 9), min_size=3, max_size=8).map(tuple)),
)
moments = st.sampled_from([1, 249, 250, 999, 1_000, 1_001, 2_000, 5_000, 7_000])
usages = st.sampled_from([(1_000, 0), (2_000, 0), (2_500, 500), (1_000, 1_000)])


class QueueMachine(RuleBasedStateMachine):
    """A waiting room, its model, and what may happen to them."""

    backend: ClassVar[Backend]

    @initialize(room=rooms, capacity=st.sampled_from([1, 3, 5, 7]))
    def open(self, room: Room, capacity: int) -> None:
        self.cell = QueueCell(
            self.backend,
            [Zone(capacity)],
            mode="lottery" if room.is_lottery else "open",
            opens_at_ms=room.opens_at_ms,
            interval_us=room.interval_us,
            passes_max=room.passes_max,
            pass_ttl_ms=room.pass_ttl_ms,
            grace_ms=room.grace_ms,
            sale={"hold_ttl_ms": HOLD_TTL_MS, "max_per_user": 1_000},
        )
        self.model = QueueModel(room, capacity, HOLD_TTL_MS, self.cell.now_ms)

    def teardown(self) -> None:
        """Leave the server as it was."""
        if hasattr(self, "cell"):
            self.cell.remove()

    # --- people

    @rule(asked=st.lists(users, min_size=1, max_size=4))
    def join(self, asked: list[str]) -> None:
        answers = self.cell.join(*asked)
        for answer, (status, detail) in zip(answers, self.model.join(asked), strict=True):
            assert answer.status == status
            assert answer.detail == detail or status == Status.SALE_NOT_OPEN

    def _person(self, user: str, is_stale: bool) -> tuple[Person, int]:
        number = self.model.numbers.get(user, 1)
        number = max(number - 1, 1) if is_stale else number
        return Person(user, number), self.model.place_of(number) if number <= self.model.tail else 0

    @rule(user=users, is_stale=st.sampled_from([False, False, False, True]))
    def leave(self, user: str, is_stale: bool) -> None:
        person, place = self._person(user, is_stale)
        if person.number <= self.model.tail:
            self._same(self.cell.leave(person, place), self.model.leave(*person))

    @rule(user=users, is_stale=st.sampled_from([False] * 7 + [True]))
    def claim(self, user: str, is_stale: bool) -> None:
        person, place = self._person(user, is_stale)
        if person.number <= self.model.tail:
            self._same(self.cell.claim(person, place), self.model.claim(*person))

    @rule(quantity=st.sampled_from([1, 1, 2, 5]), count=st.integers(1, 8))
    def claim_and_reserve(self, quantity: int, count: int) -> None:
        """Those who are in go on; many of what follows needs somebody with a booking."""
        for user in USERS[:count]:
            if user in self.model.numbers:
                self.claim(user, is_stale=False)
            if self.model.passes.get(user, 0) > self.model.now_ms:
                self.reserve(user, quantity, "own")
                return

    @rule(
        user=users,
        quantity=st.sampled_from([1, 1, 2, 5]),
        shown=st.sampled_from(["own", "own", "own", "", "-", "later", "somebody's"]),
    )
    def reserve(self, user: str, quantity: int, shown: str) -> None:
        model = self.model
        own = model.passes.get(user, model.now_ms + model.room.pass_ttl_ms)
        somebodys = next((until for other, until in model.passes.items() if other != user), own)
        queue_pass = {"own": str(own), "later": str(own + 1), "somebody's": str(somebodys)}.get(shown, shown)
        booking, answer = self.cell.reserve(user, [(self.cell.zones[0], quantity)], queue_pass=queue_pass)
        assert answer.status == model.reserve(user, booking, quantity, queue_pass)

    @precondition(lambda self: self.model.bookings)
    @rule(pick=st.integers(0, 20), how=st.sampled_from(["confirm", "cancel", "cancel", "reject"]))
    def finish(self, pick: int, how: str) -> None:
        booking, hold = list(self.model.bookings.items())[pick % len(self.model.bookings)]
        if hold.status != "reserved":
            return
        match how:
            case "confirm":
                answer = self.cell.confirm(hold.user, booking)
            case "cancel":
                answer = self.cell.cancel(hold.user, booking)
            case _:
                answer = self.cell.reject(booking)
        assert answer.status == Status.OK
        self.model.end(booking, "confirmed" if how == "confirm" else "cancelled")

    @rule(pick=st.integers(0, 7), early_ms=st.sampled_from([0, 0, 1]))
    def reserve_when_it_runs_out(self, pick: int, early_ms: int) -> None:
        """Nobody has swept the pass yet."""
        model = self.model
        out = [user for user, until_ms in model.passes.items() if until_ms > model.now_ms]
        if out:
            user = out[pick % len(out)]
            left_ms = model.passes[user] - model.now_ms - early_ms
            if left_ms:
                self.forward(left_ms)
            self.reserve(user, 1, "own")
            if user in model.numbers:
                self.claim(user, is_stale=False)

    @rule(pick=st.integers(0, 7))
    def come_back(self, pick: int) -> None:
        """A booking is cancelled, and its buyer wants another pass at once."""
        for user in list(self.model.numbers)[:pick]:
            self.claim(user, is_stale=False)
        for user in list(self.model.passes)[:1]:
            self.reserve(user, 1, "own")
        held = [user for user, b in self.model.spent.items() if self.model.bookings[b].status == "reserved"]
        if held:
            user = held[pick % len(held)]
            booking = self.model.spent[user]
            assert self.cell.cancel(user, booking).status == Status.OK
            self.model.end(booking, "cancelled")
            self.claim(user, is_stale=False)

    @precondition(lambda self: self.model.passes or self.model.spent)
    @rule(pick=st.integers(0, 7))
    def leave_with_a_pass(self, pick: int) -> None:
        """Their own slot is used; those of the others in their wave may still be kept."""
        those = sorted({*self.model.passes, *self.model.spent})
        self.leave(those[pick % len(those)], is_stale=False)

    @precondition(lambda self: self.model.waves)
    @rule(early_ms=st.sampled_from([0, 0, 1]), people_max=st.sampled_from([0, 0, 1, 100]))
    def be_late(self, early_ms: int, people_max: int) -> None:
        """The time of a wave is over, or nearly; some claim before anybody sweeps, and some behind."""
        model, wave = self.model, self.model.waves[0]
        left_ms = wave.served_at_ms + model.room.grace_ms - model.now_ms - early_ms
        if left_ms > 0:
            self.forward(left_ms)
        of_wave = [u for u, n in model.numbers.items() if wave.first <= model.place_of(n) <= wave.last]
        for number, user in enumerate(of_wave):
            if number == 1:
                self.admit(people_max, (1_000, 0))
            if user in model.numbers:
                self.claim(user, is_stale=False)

    # --- time, workers, the organizer

    @rule(ms=moments)
    def forward(self, ms: int) -> None:
        model = self.model
        model.now_ms = self.cell.forward(ms)
        due = [booking for booking, hold in model.bookings.items() if hold.status == "reserved"]
        due = [booking for booking in due if model.bookings[booking].expires_at_ms <= model.now_ms]
        assert self.cell.expire().detail[0] == len(due)
        for booking in due:
            model.end(booking, "expired")

    @rule(people_max=st.sampled_from([0, 1, 2, 3, 100]), usage=usages)
    def admit(self, people_max: int, usage: tuple[int, int]) -> None:
        basket_milli, return_permille = usage
        admitted = self.cell.admit(people_max, basket_milli=basket_milli, return_permille=return_permille)
        assert admitted == self.model.admit(people_max, usage)

    @rule(user=users, wave=st.integers(1, 4), usage=usages)
    def rush(self, user: str, wave: int, usage: tuple[int, int]) -> None:
        """Everybody joins, and some are let in."""
        self.join([user, *USERS])
        if self.model.room.is_lottery and self.model.drawn is None:
            self.forward(1_000)
            self.leave(user, is_stale=False)
            self.admit(0, (1_000, 0))
            self.draw(is_stale=True)
        self.admit(wave, usage)

    @precondition(lambda self: self.model.entrants is not None and self.model.drawn is None)
    @rule(is_stale=st.sampled_from([False, False, True]))
    def draw(self, is_stale: bool) -> None:
        count, places = self.model.draw()
        bitmap = bytearray((max(places, default=0) + 7) // 8)
        for place in places:
            bitmap[(place - 1) // 8] |= 0x80 >> (place - 1) % 8
        if is_stale:
            assert self.cell.draw(KEY, count + 1, bytes(bitmap)).status == Status.EPOCH_STALE
        assert self.cell.draw(KEY, count, bytes(bitmap)).status == Status.OK
        self.model.drew(places)
        assert self.cell.draw(KEY, count, bytes(bitmap)).status == Status.REPLAYED

    @rule(is_paused=st.booleans())
    def pause(self, is_paused: bool) -> None:
        self.cell.client.hset(self.cell.keys.sale, "queue_paused", int(is_paused))
        self.model.is_paused = is_paused

    @rule(status=st.sampled_from(["published", "published", "published", "paused", "cancelled"]))
    def edit(self, status: str) -> None:
        self.cell.client.hset(self.cell.keys.sale, "status", status)
        self.model.status = status

    # --- after every step

    def _same(self, answer: Answer, told: tuple[Status, tuple[Any, ...]]) -> None:
        status, detail = told
        assert answer.status == status
        assert answer.detail == detail or status == Status.SALE_NOT_OPEN
        assert answer.at == f"1-{self.cell.hash('sale')['seq']}"

    @invariant()
    def holds_what_the_model_says(self) -> None:
        if not hasattr(self, "cell"):
            return
        cell, model = self.cell, self.model
        dump = cell.dump()
        queue = dump["queue"]
        check_invariants(dump)
        assert dump.get("places", {}) == {user: str(number) for user, number in model.numbers.items()}
        assert {user: int(until) for user, until in dump.get("passes", [])} == model.passes
        assert dump.get("spent", {}) == model.spent
        waves = [f"{w.first}:{w.last}:{w.people}:{w.served_at_ms}" for w in model.waves]
        assert [member for member, _ in dump.get("waves", [])] == waves
        slots = {f"w:{wave.last}": wave.slots for wave in model.waves}
        assert {name: int(value) for name, value in queue.items() if name.startswith("w:")} == slots
        gone = bytes.fromhex(dump.get("gone", ""))
        bits = {8 * i + j + 1 for i, byte in enumerate(gone) for j in range(8) if byte & 0x80 >> j}
        assert bits == model.gone
        expected = model.totals | {
            "tail": model.tail,
            "serving": model.serving,
            "gone": len(model.gone),
            "unclaimed": sum(wave.slots for wave in model.waves),
        }
        assert {name: int(queue.get(name, 0)) for name in expected} == expected
        assert queue.get("entrants") == (None if model.entrants is None else str(model.entrants))
        assert ("key" in queue) == (model.drawn is not None)
        # Of a reservation the ledger has the booking, and whether a pass was spent.
        written = [
            ["reserve", entry[2], *entry[8:]] if entry[0] == "reserve" else entry
            for entry in (json.loads(fields["e"]) for _, fields in dump["ledger"])
        ]
        of_bookings = ("open", "confirm", "cancel", "expire", "reject")
        told = [[*entry, 0][:3] if entry[0] == "reserve" else entry for entry in written]
        assert [entry for entry in told if entry[0] not in of_bookings] == model.ledger

    @invariant()
    def never_lets_in_more_than_may_be(self) -> None:
        """Whatever the model believes: nobody is served twice, and no more are out than the passes allow."""
        if hasattr(self, "cell"):
            numbers = list(self.model.numbers.values())
            assert len(numbers) == len(set(numbers))
            assert self.model.out() <= self.model.room.passes_max
