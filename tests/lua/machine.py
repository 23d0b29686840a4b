"""The state machine: the same random operations on the model and on the scripts, compared at every step."""

import copy
import itertools
import json
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine import ids
from engine.rebuild import CELL_FORMAT
from engine.status import Status
from tests.lua.cellkit import HOLD_TTL_MS, START_MS, Answer, Backend, Cell, Dump, Wish, Zone, as_text, digest
from tests.lua.model import Model
from tests.lua.model_records import ModelZone

ZONES = (Zone(6, 0, 4), Zone(4, 500, 3, blocked=1), Zone(3, 0, 3, show=1))
SALE = {"max_per_user": 5, "ledger_max": 1_000_000}
USERS = tuple(f"0000000{number}-0000-4000-8000-000000000000" for number in range(3))
RATE = (100_000, 12)
"""Slow, so that a bucket does not leave the server by its own lifetime while the test runs."""

users = st.sampled_from(USERS)
zone_numbers = st.integers(0, len(ZONES) - 1)
due_maxima = st.integers(1, 3)
quantities = st.sampled_from([1, 1, 1, 2, 3, 4])
baskets = st.lists(
    st.tuples(zone_numbers, quantities), min_size=1, max_size=3, unique_by=lambda item: item[0]
)
picks = st.integers(0, 40)
nexts = st.sampled_from(
    [
        "",
        "",
        "",
        "again",
        "not mine",
        "confirm",
        "unpaid",
        "confirm, cancel",
        "confirm, reject",
        "cancel",
        "too late",
    ]
)
"""What the buyer does at once with a new booking."""
fence_tokens = st.sampled_from(["", "one", "two"])
sale_edits = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["published", "published", "paused", "cancelled"]),
        "sale_start_at_ms": st.sampled_from([0, 0, 0, START_MS + HOLD_TTL_MS]),
        "sale_end_at_ms": st.sampled_from([0, 0, 0, START_MS + 20 * HOLD_TTL_MS]),
        "max_per_user": st.integers(3, 8),
        "hold_ttl_ms": st.sampled_from([1, HOLD_TTL_MS, HOLD_TTL_MS]),
    },
)
zone_edits = st.fixed_dictionaries(
    {},
    optional={
        "capacity": st.sampled_from([0, 1, 3, 5, 8, 12]),
        "blocked": st.integers(0, 2),
        "price_minor": st.sampled_from([0, 250]),
        "max_per_order": st.integers(1, 4),
    },
)


def observed(cell: Cell) -> Dump:
    """What the server holds, in the form of the model's dump."""
    dump = cell.dump()
    dump["ledger"] = [(entry_id, json.loads(fields["e"])) for entry_id, fields in dump["ledger"]]
    for name, value in dump.items():
        if name.startswith("booking:") and "ttl_s" in value:
            value["ttl_s"] = 80_000 < value["ttl_s"] <= 86_400
    rates = {}
    for name in [name for name in dump if name.startswith("rate:")]:
        rates[name.removeprefix("rate:")] = int(dump.pop(name))
    for user, value in dump.get("buyers", {}).items():
        units, full_at_ms, *holds = value.split()
        dump["buyers"][user] = " ".join([units, *sorted(holds)])
        rates[user] = max(rates.get(user, 0), int(full_at_ms))
    # A bucket that is full again may be remembered or not.
    dump["rates"] = {user: at_ms for user, at_ms in rates.items() if at_ms > cell.now_ms}
    return dump


def check_invariants(dump: Dump) -> None:
    """What must never be false, whatever the model believes: of the server's data alone."""
    held: dict[str, int] = {}
    for name, value in dump.items():
        if name.startswith("zone:"):
            counters = [int(value[part]) for part in ("available", "reserved", "confirmed", "blocked")]
            assert sum(counters) == int(value["capacity"]), (name, value)
            assert min(counters) >= 0, (name, value)
        if name.startswith("booking:") and value["status"] in ("reserved", "confirmed"):
            held[value["user"]] = held.get(value["user"], 0) + int(value["quantity"])
    # While records are being loaded, some of those that hold units are not there yet.
    assert "loaded" in dump["sale"] or held == {
        user: int(value.split()[0]) for user, value in dump.get("buyers", {}).items()
    }
    positions = [tuple(map(int, entry_id.split("-"))) for entry_id, _ in dump["ledger"]]
    for before, after in itertools.pairwise(positions):
        assert after in ((before[0], before[1] + 1), (before[0] + 1, 0)), "the ledger has a gap"


class CellMachine(RuleBasedStateMachine):
    """A cell, its model, and what may happen to them."""

    backend: ClassVar[Backend]

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell(self.backend, ZONES, **SALE)
        sale = {
            "format": CELL_FORMAT,
            "status": "published",
            "sale_start_at_ms": 0,
            "sale_end_at_ms": 0,
            "hold_ttl_ms": HOLD_TTL_MS,
            "currency": "GBP",
            "secret": "5ec2e7",
        }
        zones = {
            zone_id: ModelZone(
                self.cell.shows[zone.show], zone.price_minor, zone.max_per_order, zone.capacity, zone.blocked
            )
            for zone_id, zone in zip(self.cell.zones, ZONES, strict=True)
        }
        self.model = Model(sale | SALE, zones, START_MS)
        self.tokens = itertools.count()
        self.rows: dict[str, dict[str, Any]] = {}
        """What Postgres had of each booking at the last rebuild, in the order of their ids."""
        self.bookings: list[tuple[str, str]] = []
        """Each that was granted, some long gone: its id and its user."""
        # The build scripts wrote the server's own time into the first entry.
        self.model.ledger = observed(self.cell)["ledger"]

    def teardown(self) -> None:
        """Leave nothing to the next run."""
        self.cell.remove()

    def _same(self, real: Answer, expected: Answer) -> None:
        assert as_text(real) == as_text(expected)

    def _reserve(
        self,
        user: str,
        items: list[tuple[str, int, str]],
        booking: str,
        fingerprint: str,
        due_max: int,
        then: str = "",
    ) -> None:
        def ask(who: str) -> Answer:
            _, real = self.cell.reserve(
                who, items, booking=booking, fingerprint=fingerprint, rate=RATE, due_max=due_max
            )
            self._same(real, self.model.reserve(who, items, booking, fingerprint, RATE, due_max))
            self.holds_what_the_model_says()
            return real

        if ask(user).status != Status.OK:
            return
        pick = len(self.bookings)
        self.bookings.append((booking, user))
        match then:
            case "again" if fingerprint:
                ask(user)
            case "not mine" if fingerprint:
                ask(next(other for other in USERS if other != user))
            case "confirm":
                self.confirm(pick, True)
            case "unpaid":
                self.confirm(pick, False)
            case "confirm, cancel":
                self.confirm(pick, True)
                self.cancel(pick)
            case "confirm, reject":
                self.confirm(pick, True)
                self.reject(pick)
            case "cancel":
                self.cancel(pick)
            case "too late":
                self.forward(self.model.sale["hold_ttl_ms"])
                self.confirm(pick, True)

    def _try_one(self, user: str, zone: int = 0) -> None:
        self._reserve(user, self._items([(zone, 1)], False), self.cell.new_id(), "", 3)

    def _items(self, basket: list[tuple[int, int]], with_show: bool) -> list[tuple[str, int, str]]:
        return [
            (self.cell.zones[zone], quantity, self.cell.shows[ZONES[zone].show] if with_show else "")
            for zone, quantity in basket
        ]

    def _pick(self, pick: int) -> tuple[str, str]:
        known = [*self.bookings, (str(ids.make_id(*self.cell.id, 0)), USERS[0])]
        return known[pick % len(known)]

    # --- buyers

    @rule(user=users, basket=baskets, due_max=due_maxima, with_show=st.booleans(), then=nexts)
    def reserve(
        self, user: str, basket: list[tuple[int, int]], due_max: int, with_show: bool, then: str
    ) -> None:
        self._reserve(user, self._items(basket, with_show), self.cell.new_id(), "", due_max, then)

    @rule(user=users, key=st.integers(0, 3), basket=baskets, due_max=due_maxima, then=nexts)
    def reserve_with_key(
        self, user: str, key: int, basket: list[tuple[int, int]], due_max: int, then: str
    ) -> None:
        # The key 0 leads everybody to the same booking: a collision.
        own = 1_000_000 * (1 + USERS.index(user)) + key if key else 1_000_000
        booking = str(ids.make_id(*self.cell.id, own))
        fingerprint = digest(str(sorted(basket)))
        self._reserve(user, self._items(basket, False), booking, fingerprint, due_max, then)

    @rule(zone=zone_numbers, rounds=st.integers(1, 2), ms=st.sampled_from([0, HOLD_TTL_MS]))
    def crowd(self, zone: int, rounds: int, ms: int) -> None:
        """Everybody takes one of a zone, and perhaps nobody comes back."""
        for user in rounds * USERS:
            self._try_one(user, zone)
        self.forward(ms)

    @rule(
        wishes=st.lists(st.tuples(users, baskets, st.integers(0, 2)), min_size=2, max_size=6),
        due_max=due_maxima,
    )
    def reserve_together(self, wishes: list[tuple[str, list[tuple[int, int]], int]], due_max: int) -> None:
        """Several requests in one call: each is answered as if it had come alone."""
        asked = []
        for user, basket, key in wishes:
            own = 1_000_000 * (1 + USERS.index(user)) + key
            booking = str(ids.make_id(*self.cell.id, own)) if key else self.cell.new_id()
            fingerprint = digest(str(sorted(basket))) if key else ""
            asked.append(Wish(user, self._items(basket, False), booking, fingerprint))
        answers = self.cell.reserve_all(asked, rate=RATE, due_max=due_max)
        for (user, items, booking, fingerprint, _), real in zip(asked, answers, strict=True):
            assert isinstance(real, Answer), real
            ledger = len(self.model.ledger)
            self._same(real, self.model.reserve(user, items, booking, fingerprint, RATE, due_max))
            due_max -= sum(entry[0] == "expire" for _, entry in self.model.ledger[ledger:])
            if real.status == Status.OK:
                self.bookings.append((booking, user))

    @rule(pick=picks)
    def reserve_again(self, pick: int) -> None:
        booking, user = self._pick(pick)
        known = self.model.bookings.get(booking)
        if known is not None and known.fingerprint:
            items = [(item[0], item[1], "") for item in known.items]
            self._reserve(user, items, booking, known.fingerprint, 2)

    @rule(user=users, basket=baskets, what=st.sampled_from(["zone", "show"]))
    def reserve_what_is_not_there(self, user: str, basket: list[tuple[int, int]], what: str) -> None:
        items = self._items(basket, True)
        other = (self.cell.new_id(), 1, "") if what == "zone" else (items[-1][0], 1, self.cell.new_id())
        self._reserve(user, [*items[:-1], other], self.cell.new_id(), "", 1)

    @rule(pick=picks, is_paid=st.booleans())
    def confirm(self, pick: int, is_paid: bool) -> None:
        booking, user = self._pick(pick)
        code = f"CODE{pick}"
        real = self.cell.confirm(user, booking, code=code, paid=is_paid)
        self._same(real, self.model.confirm(user, booking, code, is_paid))

    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        booking, user = self._pick(pick)
        self._same(self.cell.cancel(user, booking), self.model.cancel(user, booking))

    @rule(pick=picks, user=users)
    def touch_somebody_elses(self, pick: int, user: str) -> None:
        booking, owner = self._pick(pick)
        if user != owner:
            self._same(self.cell.confirm(user, booking), self.model.confirm(user, booking, "CODE", False))
            self._same(self.cell.cancel(user, booking), self.model.cancel(user, booking))

    # --- time and workers

    @rule(ms=st.sampled_from([1, HOLD_TTL_MS - 1, HOLD_TTL_MS, 100_000]))
    def forward(self, ms: int) -> None:
        self.cell.forward(ms)
        self.model.now_ms += ms

    @rule(due_max=due_maxima)
    def expire(self, due_max: int) -> None:
        self._same(self.cell.expire(due_max), self.model.expire(due_max))

    @rule(pick=picks)
    def reject(self, pick: int) -> None:
        booking, _ = self._pick(pick)
        self._same(self.cell.reject(booking), self.model.reject(booking))

    # --- the organizer

    def _edit(self, version: int, sale: dict[str, Any], wishes: list[dict[str, Any]]) -> None:
        intent = {"sale": sale, "zones": wishes}
        self._same(self.cell.edit(version, intent), self.model.edit(version, copy.deepcopy(intent)))

    @rule(
        step=st.sampled_from([1, 1, 1, 1, 0, 2]),
        sale=sale_edits,
        zones=st.dictionaries(zone_numbers, zone_edits),
        is_new=st.booleans(),
        user=users,
    )
    def edit(
        self, step: int, sale: dict[str, Any], zones: dict[int, dict[str, Any]], is_new: bool, user: str
    ) -> None:
        wishes = [{"zone_id": self.cell.zones[zone]} | wish for zone, wish in zones.items()]
        if is_new and wishes and len(self.model.zones) < 5:
            wishes.append(wishes[0] | {"zone_id": self.cell.new_id(), "show_id": self.cell.shows[0]})
        self._edit(self.model.version + step, sale, wishes)
        self._try_one(user)

    @precondition(lambda self: self.model.sale["status"] != "published")
    @rule()
    def resume(self) -> None:
        sale = {"status": "published", "sale_start_at_ms": 0, "sale_end_at_ms": 0}
        self._edit(self.model.version + 1, sale, [])

    @rule(is_full=st.booleans(), user=users)
    def bound_the_ledger(self, is_full: bool, user: str) -> None:
        ledger_max = len(self.model.ledger) + 1 if is_full else SALE["ledger_max"]
        self.cell.client.hset(self.cell.keys.sale, "ledger_max", ledger_max)
        self.model.sale["ledger_max"] = ledger_max
        self._try_one(user)
        self._try_one(user)

    # --- recovery

    @rule(
        seq_off=st.sampled_from([0, 0, 1]), tokens=st.lists(fence_tokens, max_size=3), user=users, pick=picks
    )
    def open(self, seq_off: int, tokens: list[str], user: str, pick: int) -> None:
        model = self.model
        for token in (list(filter(None, [token])) for token in tokens):
            self._same(self.cell.fence(*token), model.fence(*token))
        if tokens:
            self.expire(1)
            self._edit(model.version + 1, {"status": "paused"}, [])
            self._try_one(user)
            self.confirm(pick, True)
            self.cancel(pick)
            self.reject(pick)
            self.holds_what_the_model_says()
        for off, token in ((seq_off, model.fence_token), (0, "late"), (0, model.fence_token)):
            where = (model.epoch, model.seq + off, model.epoch + 1, *filter(None, [token]))
            self._same(self.cell.open(*where), model.open(*where))

    @rule(slice_max=st.integers(1, 3), is_large=st.booleans())
    def rebuild(self, slice_max: int, is_large: bool) -> None:
        cell, model, epoch = self.cell, self.model, self.model.epoch + 1
        token = f"{epoch}-token"
        assert cell.build_begin(token).status == Status.BUILD_VOID, "it is open"
        self.holds_what_the_model_says()
        cell.fence()
        assert cell.build_begin(token).status == Status.OK
        cell.build_wipe(token, [name for name in cell.key_names() if name != cell.keys.build])
        kept = [b for b in model.bookings.values() if b.is_living or b.fingerprint]
        self.rows = {b.id: b.record() for b in sorted(kept, key=lambda b: b.id)}
        if is_large:
            sold = [(b.user, b.quantity) for b in kept if b.status == "confirmed"]
            for begin in range(0, len(sold), slice_max):
                cell.build_units(token, sold[begin : begin + slice_max])
            kept = [b for b in kept if b.status == "reserved"]
        for begin in range(0, len(kept), slice_max):
            cell.build_load(token, {b.id: b.record() for b in kept[begin : begin + slice_max]})
        sale = model.sale_fields() | {"epoch": str(epoch)}
        sale = {name: sale[name] for name in sale if name not in ("seq", "time_ms")}
        zones = {zone_id: model.zone_fields(zone_id) for zone_id in model.zones}
        if is_large:
            sale |= {"loaded": ""}
        else:
            sale.pop("loaded", None)
        assert cell.build_open(token, sale, zones).status == Status.OK
        cell.set_time(model.now_ms)
        [(_, opened)] = cell.ledger()
        model.rebuild(epoch, opened[1], token if is_large else "")

    @precondition(lambda self: self.model.loaded is not None)
    @rule(count=st.integers(1, 4), is_resumed=st.booleans())
    def load_rest(self, count: int, is_resumed: bool) -> None:
        """What Postgres had when it was read; the holds too, which may be something else by now."""
        cell, model = self.cell, self.model
        if is_resumed:
            before, model.build_token = model.build_token, f"{model.epoch}-{next(self.tokens)}"
            assert cell.build_resume(model.build_token) == Answer(Status.OK, model.loaded)
            assert cell.build_rest(before, "", {}).status == Status.BUILD_VOID
        rows = [(booking, row) for booking, row in self.rows.items() if booking > (model.loaded or "")][
            :count
        ]
        loaded = rows[-1][0] if rows else ""
        assert cell.build_rest(model.build_token, loaded, dict(rows)).status == Status.OK
        model.load(loaded)

    # --- after every step

    @invariant()
    def holds_what_the_model_says(self) -> None:
        dump, expected = observed(self.cell), self.model.dump()
        check_invariants(dump)
        assert dump == expected
