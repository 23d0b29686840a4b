"""A cell that tests drive by hand: opened through the real build scripts, every verb a typed call.

The clock stands still. A cell's time never runs behind the one that is stored in `sale`, so a stored time
far in the future is what every script sees, and `forward` is the only thing that moves it. What a script
does at a deadline can so be tested to the millisecond, without waiting.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import fakeredis
import redis

from engine import ids
from engine.keys import CellKeys
from engine.rebuild import CELL_FORMAT
from engine.scripts import Scripts
from engine.status import Status
from tests.lua.model_records import record_fields, record_text

START_MS = 4_000_000_000_000
"""When every test begins: in 2096, in front of every clock that runs."""
HOLD_TTL_MS = 60_000
RATE_INTERVAL_MS = 1_000
RATE_BURST = 1_000
"""So wide that only tests which ask for less meet it."""
DUE_MAX = 4

_numbers = itertools.count(1)

Dump = dict[str, Any]


product_scripts = functools.cache(Scripts)


class Answer(NamedTuple):
    """What a script answered: `[status, at, *detail]`."""

    status: Status
    at: str
    detail: tuple[Any, ...] = ()


Basket = tuple[str, int] | tuple[str, int, str]
"""Zone, quantity, and perhaps the show that the request names."""


class Wish(NamedTuple):
    """One request to reserve."""

    user: str
    items: Sequence[Basket]
    booking: str
    fingerprint: str = ""
    queue_pass: str = ""


def as_answer(reply: list[Any]) -> Answer:
    """A script's answer, read."""
    status, *rest = reply
    at = rest.pop(0).decode() if rest else ""
    return Answer(Status(status), at, tuple(rest))


def as_text(answer: Answer) -> Answer:
    """An answer whose numbers are text: a script has them from its arguments or from a record."""
    detail = tuple(
        part if part is None or isinstance(part, bytes) else str(part).encode() for part in answer.detail
    )
    return Answer(answer.status, answer.at, detail)


class Backend:
    """A server with the scripts loaded: a real one (`#!lua`), or fakeredis, which does not know that line."""

    def __init__(self, client: redis.Redis, scripts: Scripts | None = None) -> None:
        self.client = client
        self.scripts = scripts or product_scripts()
        self.is_real = not isinstance(client, fakeredis.FakeRedis)
        self._shas = {
            name: client.script_load(script.source if self.is_real else script.source_plain)
            for name, script in self.scripts.items()
        }

    def call(self, name: str, keys: Sequence[str], *arguments: Any) -> list[Any]:
        """The raw reply of one script; an error of Lua names its source file."""
        try:
            reply: list[Any] = self.client.evalsha(self._shas[name], len(keys), *keys, *arguments)
        except redis.ResponseError as error:
            raise type(error)(self.scripts[name].locate(str(error))) from None
        return reply


def fake_backend(scripts: Scripts | None = None) -> Backend:
    """A fakeredis of its own."""
    return Backend(fakeredis.FakeRedis(version=(7,)), scripts)


class Zone(NamedTuple):
    """A zone as a test sets it up."""

    capacity: int = 10
    price_minor: int = 0
    max_per_order: int = 8
    blocked: int = 0
    show: int = 0
    """Number of the show that it belongs to."""


class Cell:
    """One cell of its own on a backend."""

    def __init__(
        self,
        backend: Backend,
        zones: Sequence[Zone] = (Zone(),),
        *,
        cell_id: ids.CellId | None = None,
        zone_ids: Sequence[str] = (),
        shows: Sequence[str] = (),
        start_ms: int = START_MS,
        **sale: Any,
    ) -> None:
        self.backend = backend
        self.client = backend.client
        self.id = cell_id or ids.CellId(next(_numbers), 0)
        self.keys = CellKeys(self.id)
        self.shows = list(shows) or [
            self.new_id() for _ in range(1 + max((zone.show for zone in zones), default=0))
        ]
        self.zones = list(zone_ids) or [self.new_id() for _ in zones]
        defaults = {
            "epoch": 1,
            "format": CELL_FORMAT,
            "version": 0,
            "status": "published",
            "sale_start_at_ms": 0,
            "sale_end_at_ms": 0,
            "max_per_user": 8,
            "hold_ttl_ms": HOLD_TTL_MS,
            "currency": "GBP",
            "secret": "5ec2e7",
            "ledger_max": 1_000_000,
            "zones": " ".join(self.zones),
        }
        assert self.build_begin("1-token").status == Status.OK
        rows = {
            zone_id: {
                "show": self.shows[zone.show],
                "kind": "counted",
                "price_minor": zone.price_minor,
                "max_per_order": zone.max_per_order,
                "capacity": zone.capacity,
                "available": zone.capacity - zone.blocked,
                "reserved": 0,
                "confirmed": 0,
                "blocked": zone.blocked,
            }
            for zone_id, zone in zip(self.zones, zones, strict=True)
        }
        self.before_opening()
        assert self.build_open("1-token", defaults | sale, rows).status == Status.OK
        self.set_time(start_ms)

    def before_opening(self) -> None:
        """What else is built before the cell is opened."""

    def remove(self) -> None:
        """Take all of it out of the server."""
        for name in self.key_names():
            self.client.delete(name)

    # --- ids

    def new_id(self) -> str:
        """A fresh id of this cell: of a show, a zone or a booking."""
        return str(ids.make_id(*self.id, next(_numbers)))

    @staticmethod
    def new_user() -> str:
        """A fresh user."""
        return f"{next(_numbers):08x}-0000-4000-8000-000000000000"

    # --- the clock

    def set_attempts(self, user: str, full_at_ms: int) -> None:
        """When this person's rate limit is full again, whatever they have."""
        self.client.delete(self.keys.rate(user))
        value = self.client.hget(self.keys.buyers, user)
        if value is None:
            self.client.set(self.keys.rate(user), full_at_ms)
        else:
            units, _, *holds = value.decode().split()
            self.client.hset(self.keys.buyers, user, " ".join([units, str(full_at_ms), *holds]))

    def set_time(self, at_ms: int) -> None:
        """What time it is in the cell."""
        self.client.hset(self.keys.sale, "time_ms", at_ms)

    @property
    def now_ms(self) -> int:
        """The time that is stored in the cell."""
        return int(self.client.hget(self.keys.sale, "time_ms") or 0)

    def forward(self, ms: int) -> int:
        """Move the clock; what it says then."""
        at_ms = self.now_ms + ms
        self.set_time(at_ms)
        return at_ms

    # --- the verbs

    def call(self, name: str, keys: Sequence[str], *arguments: Any) -> Answer:
        """Call a script that answers `[status, at, *detail]`."""
        return as_answer(self.backend.call(name, keys, *arguments))

    def reserve(
        self,
        user: str,
        items: Sequence[Basket],
        *,
        booking: str | None = None,
        fingerprint: str | None = None,
        queue_pass: str = "",
        rate: tuple[int, int] = (RATE_INTERVAL_MS, RATE_BURST),
        due_max: int = DUE_MAX,
    ) -> tuple[str, Answer]:
        """Reserve items (zone, quantity[, show]); the booking's id and the answer.

        A `fingerprint` says that the request carried an Idempotency-Key; `booking` is then what the key
        leads to.
        """
        wish = Wish(user, items, booking or self.new_id(), fingerprint or "", queue_pass)
        [answer] = self.reserve_all([wish], rate=rate, due_max=due_max)
        if isinstance(answer, Exception):
            raise type(answer)(self.backend.scripts["reserve"].locate(str(answer)))
        return wish.booking, answer

    def reserve_all(
        self,
        wishes: Sequence[Wish],
        *,
        rate: tuple[int, int] = (RATE_INTERVAL_MS, RATE_BURST),
        due_max: int = DUE_MAX,
    ) -> list[Answer | Exception]:
        """Several requests in one call; the answer, or the error, of each that was answered."""
        keys = [self.keys.sale, self.keys.buyers, self.keys.ledger, self.keys.deadlines]
        keys += [self.keys.passes, self.keys.spent, self.keys.queue]
        arguments: list[Any] = [len(wishes), *rate, due_max]
        zones: dict[str, None] = {}
        for user, items, booking, fingerprint, queue_pass in wishes:
            keys += [self.keys.rate(user), self.keys.booking(booking)]
            arguments += [user, booking, fingerprint, queue_pass, len(items)]
            for zone, quantity, *show in items:
                zones[self.keys.zone(zone)] = None
                arguments += [zone, show[0] if show else "", quantity]
        replies = self.backend.call("reserve", [*keys, *zones], *arguments)
        return [reply if isinstance(reply, Exception) else as_answer(reply) for reply in replies]

    def hold(self, user: str, quantity: int = 1, zone: int = 0, **options: Any) -> str:
        """Reserve so many of one zone, which must succeed; the booking's id."""
        booking, answer = self.reserve(user, [(self.zones[zone], quantity)], **options)
        assert answer.status == Status.OK, answer
        return booking

    def confirm(self, user: str, booking: str, *, code: str = "CODE", paid: bool = False) -> Answer:
        """Confirm a booking."""
        return self.call("confirm", self._returning_keys(booking), booking, user, code, int(paid))

    def _returning_keys(self, booking: str) -> list[str]:
        keys = self.keys
        return [keys.sale, keys.buyers, keys.ledger, keys.deadlines, keys.booking(booking)]

    def cancel(self, user: str, booking: str) -> Answer:
        """Cancel a booking."""
        return self.call("cancel", self._returning_keys(booking), booking, user)

    def reject(self, booking: str) -> Answer:
        """Give back what Postgres refused."""
        return self.call("reject", self._returning_keys(booking), booking)

    def expire(self, due_max: int = 100) -> Answer:
        """Take back due holds."""
        keys = [self.keys.sale, self.keys.buyers, self.keys.ledger, self.keys.deadlines]
        return self.call("expire", keys, due_max)

    def edit(self, version: int, intent: dict[str, Any]) -> Answer:
        """Apply an intent."""
        keys = [self.keys.sale, self.keys.ledger]
        keys += [self.keys.zone(wish["zone_id"]) for wish in intent.get("zones", [])]
        return self.call("edit", keys, version, json.dumps(intent))

    # --- recovery

    def fence(self, *token: str) -> Answer:
        """Close the cell, everything in it as it is."""
        return self.call("fence", [self.keys.sale], *token)

    def open(
        self, expected_epoch: int, expected_seq: int, new_epoch: int, *token_tail_gaps: str | int
    ) -> Answer:
        """Begin a new epoch."""
        keys = [self.keys.sale, self.keys.ledger, self.keys.queue, self.keys.gone]
        return self.call("open", keys, expected_epoch, expected_seq, new_epoch, *token_tail_gaps)

    def build_begin(self, token: str) -> Answer:
        """Begin a rebuild; the token is `<epoch>-<random>`."""
        return self.call("build_begin", [self.keys.sale, self.keys.build], token)

    def build_wipe(self, token: str, names: Sequence[str]) -> Answer:
        """Remove keys."""
        return self.call("build_wipe", [self.keys.build, *names], token)

    def build_load(self, token: str, records: dict[str, dict[str, Any]]) -> Answer:
        """Put bookings back: id → fields."""
        keys = [self.keys.build, self.keys.buyers, self.keys.deadlines]
        return self.call("build_load", keys, token, _lines(records))

    def build_units(self, token: str, units: Sequence[tuple[str, int]]) -> Answer:
        """Put back what buyers have in bookings that are sold."""
        text = " ".join(f"{user} {quantity}" for user, quantity in units)
        return self.call("build_units", [self.keys.build, self.keys.buyers], token, text)

    def build_rest(self, token: str, loaded: str, records: dict[str, dict[str, Any]]) -> Answer:
        """Put records back into a cell that sells already: id → fields."""
        return self.call("build_rest", [self.keys.build, self.keys.sale], token, loaded, _lines(records))

    def build_resume(self, token: str) -> Answer:
        """Go on where another one has stopped; `at` is up to where."""
        return self.call("build_resume", [self.keys.sale, self.keys.build], token)

    def build_open(self, token: str, sale: dict[str, Any], zones: dict[str, dict[str, Any]]) -> Answer:
        """Put the zones back and open the cell."""
        keys = [self.keys.build, self.keys.sale, self.keys.ledger]
        keys += [self.keys.zone(zone_id) for zone_id in zones]
        return self.call(
            "build_open", keys, token, as_json(sale), *[as_json(zone) for zone in zones.values()]
        )

    # --- looking

    def key_names(self) -> list[str]:
        """Every key of the cell, whole."""
        return sorted(
            key.decode() for key in self.client.scan_iter(match=self.keys.prefix + "*", count=10_000)
        )

    def dump(self, *, rates: bool = True) -> Dump:
        """All that the server holds of the cell, keys without their prefix, numbers still as text.

        A booking that will be forgotten has the field `ttl_s`; the rate limits can be left out.
        """
        names = self.key_names()
        pipeline = self.client.pipeline(transaction=False)
        for name in names:
            match name.removeprefix(self.keys.prefix).partition(":")[0]:
                case "sale" | "zone" | "buyers" | "queue" | "places" | "spent":
                    pipeline.hgetall(name)
                case "deadlines":
                    pipeline.zrange(name, 0, -1)
                case "passes" | "waves":
                    pipeline.zrange(name, 0, -1, withscores=True)
                case "ledger":
                    pipeline.xrange(name)
                case _:
                    pipeline.get(name)
            pipeline.ttl(name)
        replies = pipeline.execute()
        dump = {}
        for number, name in enumerate(names):
            short = name.removeprefix(self.keys.prefix)
            if short == "places":
                replies[2 * number] = {
                    str(UUID(bytes=raw)): place for raw, place in replies[2 * number].items()
                }
            if short == "gone":
                replies[2 * number] = replies[2 * number].hex()
            value, ttl_s = _plain(replies[2 * number]), replies[2 * number + 1]
            if short.startswith("booking:"):
                value = record_fields(value) | ({"ttl_s": ttl_s} if ttl_s > 0 else {})
            if short == "buyers" and not rates:
                value = {user: _without_rate(text) for user, text in value.items()}
            if rates or not short.startswith("rate:"):
                dump[short] = value
        return dump

    def hash(self, name: str) -> dict[str, str]:
        """One hash of the cell, by its name without the prefix."""
        return {
            field.decode(): value.decode()
            for field, value in self.client.hgetall(self.keys.prefix + name).items()
        }

    def booking(self, booking: str) -> dict[str, str]:
        """One booking's record."""
        return record_fields(self.client.get(self.keys.booking(booking)).decode())

    def units(self) -> dict[str, int]:
        """How many units each person has, as `buyers` says."""
        return {user: int(value.split()[0]) for user, value in self.hash("buyers").items()}

    def holds(self, user: str) -> list[str]:
        """The bookings that are this person's holds, as `buyers` says."""
        return [hold.partition(":")[0] for hold in self.hash("buyers").get(user, "0 0").split()[2:]]

    def counters(self, zone: int = 0) -> tuple[int, int, int, int, int]:
        """Capacity, available, reserved, confirmed and blocked of a zone."""
        fields = self.hash(f"zone:{self.zones[zone]}")
        capacity, available, reserved, confirmed, blocked = (
            int(fields[name]) for name in ("capacity", "available", "reserved", "confirmed", "blocked")
        )
        return capacity, available, reserved, confirmed, blocked

    def ledger(self) -> list[tuple[str, list[Any]]]:
        """The whole ledger: id and entry."""
        return [
            (entry_id.decode(), json.loads(fields[b"e"]))
            for entry_id, fields in self.client.xrange(self.keys.ledger)
        ]

    def assert_adds_up(self) -> None:
        """Invariants 1 and 2: every zone adds up, and buyers is the sum over the living bookings."""
        dump = self.dump()
        held: dict[str, int] = {}
        for name, value in dump.items():
            if name.startswith("zone:"):
                numbers = [int(value[part]) for part in ("available", "reserved", "confirmed", "blocked")]
                assert sum(numbers) == int(value["capacity"]), value
                assert min(numbers) >= 0, value
            if name.startswith("booking:") and value["status"] in ("reserved", "confirmed"):
                held[value["user"]] = held.get(value["user"], 0) + int(value["quantity"])
        assert held == {user: int(value.split()[0]) for user, value in dump.get("buyers", {}).items()}


def digest(text: str) -> str:
    """32 hex digits, as a request's fingerprint has."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _lines(records: dict[str, dict[str, Any]]) -> str:
    return "\n".join(f"{booking} {record_text(record)}" for booking, record in records.items())


def as_json(fields: dict[str, Any]) -> str:
    """The fields as recovery sends them: all values as text."""
    return json.dumps({name: str(value) for name, value in fields.items()})


def _without_rate(buyer: str) -> str:
    units, _, *holds = buyer.split()
    return " ".join([units, *sorted(holds)])


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return value.decode()
        case dict():
            return {_plain(name): _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return value
