"""The cell of a simulated sale: the product's scripts on a Redis of its own, under a clock that is set by
hand. What a tick asks goes out in one pipeline."""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import redis

from engine import ids
from engine.keys import CellKeys
from engine.rebuild import CELL_FORMAT
from engine.scripts import Scripts
from engine.settings import project_root
from engine.status import Status
from engine.waiting.settings import StoredRoom, sale_fields
from loadtest.profile import Profile
from loadtest.simulation.options import Plan

CLOCK = "simulated_now_ms"
START_MS = 1_800_000_000_000
"""When every simulation begins: a time of its own, so that the same seed gives the same numbers."""
LEDGER_MAX = 1_000_000_000
BUILD = "1-simulated"

Handler = Callable[[Any], None]


class Call(NamedTuple):
    """One command of a tick, and who is told its reply."""

    words: Sequence[Any]
    handler: Handler


def simulated_scripts() -> Scripts:
    """The product's scripts, bundled with a clock that stands still until it is set."""
    with tempfile.TemporaryDirectory() as folder:
        lua = Path(folder) / "lua"
        shutil.copytree(project_root() / "lua", lua)
        shutil.copy(Path(__file__).with_name("clock.lua"), lua / "lib" / "clock.lua")
        return Scripts(lua)


class SimulatedCell:
    """An event on sale, with a waiting room."""

    def __init__(self, client: "redis.Redis", plan: Plan, profile: Profile) -> None:
        self._client = client
        self._scripts = simulated_scripts()
        self._shas = {name: client.script_load(script.source) for name, script in self._scripts.items()}
        self._calls: list[Call] = []
        self.event_id = ids.make_id(plan.seed % 2**40, 0, 0)
        self.cell_id = ids.cell_of(self.event_id)
        self.keys = CellKeys(self.cell_id)
        self.show = str(ids.make_id(*self.cell_id, 1))
        self.zones = {
            zone.name: str(ids.make_id(*self.cell_id, 2 + number))
            for number, zone in enumerate(profile.zones)
        }
        self.zone_keys = [self.keys.zone(zone) for zone in self.zones.values()]
        self._bookings = 0
        self._open(plan, profile)

    def _open(self, plan: Plan, profile: Profile) -> None:
        opens_at_ms = START_MS + round(1000 * plan.room_opens_s)
        room = StoredRoom(
            mode=plan.mode,
            opens_at=datetime.fromtimestamp(opens_at_ms / 1000, UTC),
            admissions_per_second=plan.admissions_per_second,
            passes_max=plan.passes_max,
            pass_ttl_seconds=plan.pass_ttl_s,
            claim_grace_seconds=plan.claim_grace_s,
        )
        sale = {
            "epoch": 1,
            "format": CELL_FORMAT,
            "version": 0,
            "status": "published",
            "sale_start_at_ms": START_MS + round(1000 * plan.sale_starts_s),
            "sale_end_at_ms": 0,
            "max_per_user": profile.max_per_user,
            "hold_ttl_ms": 1000 * plan.hold_ttl_s,
            "currency": profile.currency,
            "secret": "00",
            "ledger_max": LEDGER_MAX,
            "zones": " ".join(self.zones.values()),
        } | sale_fields(room)
        zones = [
            {
                "show": self.show,
                "kind": "counted",
                "price_minor": 0,
                "max_per_order": profile.max_per_user,
                "capacity": capacity,
                "available": capacity,
                "reserved": 0,
                "confirmed": 0,
                "blocked": 0,
            }
            for capacity in profile.capacities(plan.seats).values()
        ]
        keys = self.keys
        self._client.set(CLOCK, START_MS)
        self.ask("build_begin", [keys.sale, keys.build], [BUILD], _must_be_ok)
        self.ask(
            "build_queue",
            [keys.build, keys.queue, keys.passes, keys.spent, keys.waves, keys.gone],
            [BUILD, json.dumps({"tail": 0, "serving": 0}), "[]", "[]", "[]", ""],
            _must_be_ok,
        )
        self.ask(
            "build_open",
            [keys.build, keys.sale, keys.ledger, *self.zone_keys],
            [BUILD, json.dumps(sale), *map(json.dumps, zones)],
            _must_be_ok,
        )
        self.send()

    def new_booking(self) -> str:
        """The id of a booking that is to be made."""
        self._bookings += 1
        return str(ids.make_id(*self.cell_id, 1_000_000 + self._bookings))

    def set_clock(self, at_ms: int) -> None:
        """What time it is for all that is asked from here on."""
        self._calls.append(Call(("SET", CLOCK, at_ms), _nothing))

    def ask(self, name: str, keys: Sequence[str], arguments: Sequence[Any], handler: Handler) -> None:
        """Call a script with the next `send`."""
        self._scripts[name].check_keys(keys)
        self._calls.append(Call(("EVALSHA", self._shas[name], len(keys), *keys, *arguments), handler))

    def look(self, words: Sequence[Any], handler: Handler) -> None:
        """Read something with the next `send`."""
        self._calls.append(Call(words, handler))

    def send(self) -> None:
        """Ask all of it, in this order, then tell those who asked."""
        calls, self._calls = self._calls, []
        with self._client.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.execute_command(*call.words)  # type: ignore[no-untyped-call]
            replies = pipeline.execute()
        for call, reply in zip(calls, replies, strict=True):
            call.handler(reply)


def _must_be_ok(reply: Any) -> None:
    assert Status(reply[0]) == Status.OK, reply


def _nothing(reply: Any) -> None:
    pass
