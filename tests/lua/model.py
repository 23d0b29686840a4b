"""What a cell must do, as plain Python written from the design: no indexes, no counters kept.

Every number is added up anew from the bookings, so the model cannot drift. It answers as the scripts do,
and `dump` says what the server must hold, key by key.
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec

import msgspec

from engine.status import Status
from tests.lua.cellkit import Answer, Dump
from tests.lua.model_records import ModelBooking, ModelZone

SALE_FIELDS = ("status", "sale_start_at_ms", "sale_end_at_ms", "max_per_user", "hold_ttl_ms")

Detail = tuple[Any, ...]


class Refused(Exception):
    """The answer to a request that is not granted."""

    def __init__(self, status: Status, *detail: Any) -> None:
        super().__init__(status.name)
        self.status = status
        self.detail = detail


P = ParamSpec("P")


def verb(method: Callable[Concatenate["Model", P], Detail]) -> Callable[Concatenate["Model", P], Answer]:
    """A verb refuses first where the cell is not open; what it raises and what it returns are answers."""

    @functools.wraps(method)
    def answer(self: "Model", *args: P.args, **kwargs: P.kwargs) -> Answer:
        if not self.is_open:
            return Answer(Status.NOT_OPEN, "0-0")
        try:
            detail = method(self, *args, **kwargs)
        except Refused as refused:
            return Answer(refused.status, self.at, refused.detail)
        return Answer(Status.OK, self.at, detail)

    return answer


class Model:
    """One cell."""

    def __init__(self, sale: dict[str, Any], zones: dict[str, ModelZone], now_ms: int) -> None:
        self.sale = sale
        self.zones = zones
        self.bookings: dict[str, ModelBooking] = {}
        self.ledger: list[tuple[str, list[Any]]] = []
        self.full_at_ms: dict[str, int] = {}
        self.now_ms = now_ms
        self.epoch = 1
        self.seq = 0
        self.version = 0
        self.is_open = True
        self.fence_token = ""
        self.loaded: str | None = None
        """Up to which id the records are there, while some of them are still being loaded."""
        self.to_come: set[str] = set()
        self.build_token = ""
        self._enter("open", now_ms)

    # --- what follows from the bookings

    def taken(self, zone_id: str, status: str) -> int:
        """Seats of a zone in bookings of that status."""
        return sum(b.of_zone(zone_id) for b in self.bookings.values() if b.status == status)

    def available(self, zone_id: str) -> int:
        """Seats of a zone that are free."""
        zone = self.zones[zone_id]
        in_use = self.taken(zone_id, "reserved") + self.taken(zone_id, "confirmed")
        return zone.capacity - zone.blocked - in_use

    def held(self, user: str) -> int:
        """Units of a person's living bookings."""
        return sum(b.quantity for b in self.bookings.values() if b.user == user and b.is_living)

    def due(self) -> list[ModelBooking]:
        """Holds whose deadline has passed, in the order in which they are taken back."""
        held = [b for b in self.bookings.values() if b.status == "reserved"]
        return sorted(
            (b for b in held if b.expires_at_ms <= self.now_ms), key=lambda b: (b.expires_at_ms, b.id)
        )

    # --- writing

    @property
    def at(self) -> str:
        """Where the ledger stands."""
        return f"{self.epoch}-{self.seq}"

    def _enter(self, *entry: Any) -> None:
        self.ledger.append((self.at, json.loads(json.dumps(entry))))

    def _append(self, *entry: Any) -> str:
        self.seq += 1
        self._enter(*entry)
        return self.at

    def _end(self, booking: ModelBooking, verb: str, status: str) -> None:
        version = booking.version + 1
        what = (booking.id, version, booking.user, booking.status, booking.items)
        booking.seq = self._append(verb, self.now_ms, *what)
        booking.version, booking.status, booking.ended_at_ms = version, status, self.now_ms

    # --- the verbs

    @verb
    def reserve(
        self,
        user: str,
        items: Sequence[tuple[str, int, str]],
        booking: str,
        fingerprint: str,
        rate: tuple[int, int],
        due_max: int,
    ) -> Detail:
        """Items are (zone, quantity, show or "")."""
        known = self._record(booking) if fingerprint else None
        if known is not None:
            if known.user != user:
                raise Refused(Status.KEY_COLLISION)
            if known.fingerprint != fingerprint:
                raise Refused(Status.KEY_REUSED)
            raise Refused(Status.REPLAYED, *known.answered())
        self._check_sale()
        self._count_attempt(user, rate)
        self._check_order(items)
        self._take_back(user, items, due_max)
        taken = [
            (zone_id, quantity, self.zones[zone_id].price_minor, self.zones[zone_id].show)
            for zone_id, quantity, _ in items
        ]
        expires_at_ms = self.now_ms + self.sale["hold_ttl_ms"]
        what = (booking, user, fingerprint, expires_at_ms, self.sale["currency"], taken)
        seq = self._append("reserve", self.now_ms, *what)
        made = self.bookings[booking] = ModelBooking(
            id=booking,
            user=user,
            fingerprint=fingerprint,
            items=taken,
            currency=self.sale["currency"],
            created_at_ms=self.now_ms,
            expires_at_ms=expires_at_ms,
            seq=seq,
        )
        return made.taken()

    def _check_sale(self) -> None:
        begin, end = self.sale["sale_start_at_ms"], self.sale["sale_end_at_ms"]
        is_over = end != 0 and self.now_ms >= end
        if self.sale["status"] != "published" or self.now_ms < begin or is_over:
            raise Refused(Status.SALE_NOT_OPEN, self.sale["status"], begin, end, self.now_ms)

    def _count_attempt(self, user: str, rate: tuple[int, int]) -> None:
        interval_ms, burst = rate
        full_at_ms = max(self.now_ms, self.full_at_ms.get(user, 0)) + interval_ms
        wait_ms = full_at_ms - self.now_ms - interval_ms * burst
        if wait_ms > 0:
            raise Refused(Status.RATE_LIMITED, wait_ms)
        self.full_at_ms[user] = full_at_ms

    def _check_order(self, items: Sequence[tuple[str, int, str]]) -> None:
        for zone_id, _, _ in items:
            if zone_id not in self.zones:
                raise Refused(Status.ZONE_UNKNOWN, zone_id)
        for zone_id, _, show in items:
            if show not in ("", self.zones[zone_id].show):
                raise Refused(Status.SHOW_MISMATCH, zone_id)
        for zone_id, quantity, _ in items:
            limit = self.zones[zone_id].max_per_order
            if quantity > limit:
                raise Refused(Status.OVER_ORDER_LIMIT, zone_id, quantity, limit)

    def _take_back(self, user: str, items: Sequence[tuple[str, int, str]], due_max: int) -> None:
        """End due holds as far as they are in the way, at most `due_max`; raise if that is not enough."""
        quantity = sum(item[1] for item in items)
        limit = self.sale["max_per_user"]
        chosen: list[ModelBooking] = []
        is_more_due = False

        def held() -> int:
            return self.held(user) - sum(b.quantity for b in chosen if b.user == user)

        def is_over() -> bool:
            return held() + quantity > limit

        def free(zone_id: str) -> int:
            return self.available(zone_id) + sum(b.of_zone(zone_id) for b in chosen)

        def short() -> list[tuple[str, int, str]]:
            return [item for item in items if free(item[0]) < item[1]]

        def choose(candidates: list[ModelBooking], is_needed: Callable[[], bool]) -> None:
            nonlocal is_more_due
            for each in candidates:
                if each in chosen or not is_needed():
                    continue
                if len(chosen) == due_max:
                    is_more_due = True
                    return
                chosen.append(each)

        due = self.due()
        choose([b for b in due if b.user == user], lambda: is_over() or bool(short()))
        for item in items:
            if not is_over():
                choose([b for b in due if b.of_zone(item[0])], lambda item=item: item in short())
        refused = None
        if is_more_due and (is_over() or short()):
            refused = Refused(Status.HOLDS_DUE)
        elif is_over():
            refused = Refused(Status.OVER_USER_LIMIT, quantity, held(), limit)
        elif missing := short():
            zone_id, wanted, _ = missing[0]
            refused = Refused(Status.INSUFFICIENT_STOCK, zone_id, wanted, free(zone_id))
        elif len(self.ledger) >= self.sale["ledger_max"]:
            refused = Refused(Status.LEDGER_FULL)
        for each in chosen:
            self._end(each, "expire", "expired")
        if refused:
            raise refused

    def _record(self, booking: str) -> ModelBooking | None:
        """The booking as the server has it, if it has it."""
        if booking in self.bookings and booking not in self.to_come:
            return self.bookings[booking]
        if self.loaded is not None and booking > self.loaded:
            raise Refused(Status.REBUILDING)
        return None

    def _find(self, user: str, booking: str) -> ModelBooking:
        found = self._record(booking)
        if found is None or found.user != user:
            raise Refused(Status.BOOKING_UNKNOWN)
        return found

    @verb
    def confirm(self, user: str, booking: str, code: str, paid: bool) -> Detail:
        """Sell a hold."""
        found = self._find(user, booking)
        if found.status == "confirmed":
            raise Refused(Status.REPLAYED, *found.answered())
        if found.status == "cancelled":
            raise Refused(Status.BOOKING_ENDED, *found.answered())
        if found.status == "expired" or found.expires_at_ms <= self.now_ms:
            raise Refused(Status.BOOKING_EXPIRED, *found.answered())
        if any(price_minor for _, _, price_minor, _ in found.items) and not paid:
            raise Refused(Status.PAYMENT_REQUIRED, *found.answered())
        found.version += 1
        found.seq = self._append("confirm", self.now_ms, booking, found.version, user, code, found.items)
        found.status, found.confirmed_at_ms, found.code = "confirmed", self.now_ms, code
        return found.answered()

    @verb
    def cancel(self, user: str, booking: str) -> Detail:
        """Give a hold back."""
        found = self._find(user, booking)
        if found.status == "cancelled":
            raise Refused(Status.REPLAYED, *found.answered())
        if found.status == "confirmed":
            raise Refused(Status.BOOKING_ENDED, *found.answered())
        if found.status == "expired" or found.expires_at_ms <= self.now_ms:
            raise Refused(Status.BOOKING_EXPIRED, *found.answered())
        self._end(found, "cancel", "cancelled")
        return found.answered()

    @verb
    def reject(self, booking: str) -> Detail:
        """Give back what Postgres refused."""
        found = self._record(booking)
        if found is None:
            raise Refused(Status.BOOKING_UNKNOWN)
        if not found.is_living:
            raise Refused(Status.REPLAYED)
        self._end(found, "reject", "cancelled")
        return ()

    @verb
    def expire(self, due_max: int) -> Detail:
        """End due holds, zone by zone."""
        chosen: list[ModelBooking] = []
        for zone_id in self.zones:
            of_zone = [b for b in self.due() if b.of_zone(zone_id)]
            chosen += [b for b in of_zone[: due_max - len(chosen)] if b not in chosen]
        for each in chosen:
            self._end(each, "expire", "expired")
        deadlines = [b.expires_at_ms for b in self.bookings.values() if b.status == "reserved"]
        return len(chosen), min(deadlines, default=0), self.now_ms, self.sale["hold_ttl_ms"]

    @verb
    def edit(self, version: int, intent: dict[str, Any]) -> Detail:
        """Apply an intent."""
        if version <= self.version:
            raise Refused(Status.REPLAYED)
        if version > self.version + 1:
            raise Refused(Status.VERSION_AHEAD)
        self.version = version
        wishes = intent.get("zones", [])
        after = {wish["zone_id"]: self._wished(wish) for wish in wishes}
        if None in after.values():
            self._append("edit", self.now_ms, version, "refused", [])
            raise Refused(Status.BELOW_IN_USE)
        changes = []
        for zone_id, zone in after.items():
            old = self.zones.get(zone_id) or ModelZone("", 0, 1, 0, 0)
            capacity, blocked = zone.capacity - old.capacity, zone.blocked - old.blocked
            changes.append([zone_id, capacity, capacity - blocked, blocked])
            self.zones[zone_id] = zone
        self._append("edit", self.now_ms, version, "applied", changes)
        self.sale |= {name: intent["sale"][name] for name in SALE_FIELDS if name in intent.get("sale", {})}
        return ()

    def _wished(self, wish: dict[str, Any]) -> ModelZone | None:
        """The zone as the intent wants it; None where that cannot be."""
        old = self.zones.get(wish["zone_id"])
        if old is None and "show_id" not in wish:
            return None
        before = old or ModelZone(wish["show_id"], 0, 1, 0, 0)
        names = ("price_minor", "max_per_order", "capacity", "blocked")
        zone = msgspec.structs.replace(before, **{name: wish[name] for name in names if name in wish})
        in_use = sum(self.taken(wish["zone_id"], status) for status in ("reserved", "confirmed"))
        return zone if zone.capacity - zone.blocked >= in_use else None

    # --- recovery

    def fence(self, token: str = "") -> Answer:
        """Close the cell. Of several who want to open it again, the last may."""
        if not self.is_open and not token:
            return Answer(Status.NOT_OPEN, "")
        self.is_open = False
        self.fence_token = token or self.fence_token
        return Answer(Status.OK, "")

    def open(self, expected_epoch: int, expected_seq: int, new_epoch: int, token: str = "") -> Answer:
        """Begin an epoch."""
        if (self.epoch, self.seq, self.fence_token) != (expected_epoch, expected_seq, token):
            return Answer(Status.EPOCH_STALE, "")
        self.is_open, self.epoch, self.seq, self.fence_token = True, new_epoch, 0, ""
        self._enter("open", self.now_ms)
        return Answer(Status.OK, "")

    def rebuild(self, epoch: int, opened_at_ms: int, token: str = "") -> None:
        """What is left after a rebuild from Postgres, everything having been durable.

        With a token it goes on: only the holds have their records yet.
        """
        self.bookings = {b.id: b for b in self.bookings.values() if b.is_living or b.fingerprint}
        self.full_at_ms.clear()
        self.ledger.clear()
        self.is_open, self.epoch, self.seq = True, epoch, 0
        self.load("")
        if token:
            self.loaded, self.build_token = "", token
            self.to_come = {b.id for b in self.bookings.values() if b.status != "reserved"}
        self._enter("open", opened_at_ms)

    def load(self, loaded: str) -> None:
        """The records up to this id are there, or all of them."""
        self.loaded = loaded or None
        self.to_come = {booking for booking in self.to_come if loaded and booking > loaded}
        if not loaded:
            self.build_token = ""

    # --- what the server must hold

    def sale_fields(self) -> dict[str, str]:
        """The `sale` hash."""
        epoch: dict[str, Any] = {"epoch" if self.is_open else "fenced_epoch": self.epoch}
        if self.fence_token:
            epoch["fence"] = self.fence_token
        more = {
            "seq": self.seq,
            "time_ms": self.now_ms,
            "version": self.version,
            "zones": " ".join(self.zones),
        }
        if self.loaded is not None:
            more["loaded"] = self.loaded
        return {name: str(value) for name, value in (self.sale | more | epoch).items()}

    def zone_fields(self, zone_id: str) -> dict[str, str]:
        """A `zone:` hash."""
        zone = self.zones[zone_id]
        fields = msgspec.structs.asdict(zone) | {
            "kind": "counted",
            "available": self.available(zone_id),
            "reserved": self.taken(zone_id, "reserved"),
            "confirmed": self.taken(zone_id, "confirmed"),
        }
        return {name: str(value) for name, value in fields.items()}

    def dump(self) -> Dump:
        """Every key of the cell; a record that will be forgotten has `ttl_s` True."""
        dump: Dump = {"sale": self.sale_fields(), "ledger": self.ledger}
        for zone_id in self.zones:
            dump[f"zone:{zone_id}"] = self.zone_fields(zone_id)
        buyers = {}
        for user in {b.user for b in self.bookings.values() if b.is_living}:
            held = [b for b in self.bookings.values() if b.user == user and b.status == "reserved"]
            holds = sorted(f"{b.id}:{b.expires_at_ms}" for b in held)
            buyers[user] = " ".join([str(self.held(user)), *holds])
        if buyers:
            dump["buyers"] = buyers
        deadlines = []
        for booking in self.bookings.values():
            if booking.id in self.to_come:
                continue
            dump[f"booking:{booking.id}"] = booking.record()
            if not booking.is_living and not booking.fingerprint:
                dump[f"booking:{booking.id}"]["ttl_s"] = True
            if booking.status == "reserved":
                tail = f":{booking.expires_at_ms:013}:{booking.id}"
                deadlines += [item[0] + tail for item in booking.items]
        if self.build_token:
            dump["build"] = self.build_token
        if deadlines:
            dump["deadlines"] = sorted(deadlines)
        dump["rates"] = {user: at_ms for user, at_ms in self.full_at_ms.items() if at_ms > self.now_ms}
        return dump
