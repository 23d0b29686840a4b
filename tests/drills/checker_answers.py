"""Each answer was right in the state after the entry that it names."""

from collections.abc import Callable
from typing import Any

from tests.drills.checker_evidence import SEQ_BITS, position_text
from tests.drills.checker_ledger import Ledger
from tests.drills.checker_report import Report
from tests.drills.checker_state import AVAILABLE, Held, State
from tests.drills.history import Details, Operation

Judge = Callable[[State, int, Operation], None]


def items_asked(operation: Operation) -> tuple[tuple[str, int], ...]:
    """Zone and quantity of each item, sorted by zone."""
    items = operation.asked.items
    return items if len(items) == 1 else tuple(sorted(items))


def units_asked(operation: Operation) -> int:
    """The units of all items together."""
    items = operation.asked.items
    return items[0][1] if len(items) == 1 else sum(quantity for _, quantity in items)


class Answers:
    """Judges the answers of one cell's ledger."""

    def __init__(self, ledger: Ledger, report: Report) -> None:
        self._ledger = ledger
        self._report = report
        self._booking_of_key: dict[tuple[str, str], str] = {}
        self._judges: dict[tuple[str, int, str | None], Judge] = {
            ("reserve", 201, None): self._reserved,
            ("reserve", 409, "INSUFFICIENT_STOCK"): self._no_stock,
            ("reserve", 409, "MAX_PER_USER_EXCEEDED"): self._over_limit,
            ("reserve", 409, "SALE_NOT_OPEN"): self._not_open,
            ("reserve", 422, "IDEMPOTENCY_KEY_REUSED"): self._key_reused,
            ("reserve", 404, "NOT_FOUND"): self._no_zone,
            ("confirm", 200, None): self._confirmed,
            ("confirm", 202, None): self._confirmed,
            ("cancel", 200, None): self._cancelled,
        }
        for verb in ("confirm", "cancel"):
            self._judges[verb, 409, "INVALID_STATE"] = self._ended
            self._judges[verb, 410, "RESERVATION_EXPIRED"] = self._expired

    def judge(self, state: State, position: int, operation: Operation) -> None:
        """Judge one answer; `state` is what the ledger made of the cell up to `position`."""
        answer: Any = operation.answer
        judge = self._judges.get((operation.asked.verb, answer.http, answer.code))
        if judge is not None:
            judge(state, position, operation)

    def _add(self, rule: str, position: int, text: str, operation: Operation, *evidence: object) -> None:
        where = f"{self._ledger.tag} {position_text(position)}"
        self._report.add(rule, f"{where}: {text}", operation, self._ledger.evidence(position), *evidence)

    def _reserved(self, state: State, position: int, operation: Operation) -> None:
        """A 201: the entry itself, or again what was given before."""
        asked, answer = operation.asked, operation.answer
        assert answer is not None
        items = items_asked(operation)
        if tuple(sorted(answer.told)) != items:
            self._add("answer", position, f"was told {answer.told}", operation)
        held = state.bookings.get(answer.booking or "")
        if held is None:
            self._add("answer", position, "was told of a booking that is not there", operation)
            return
        if held.user != asked.user or held.items != items:
            evidence = self._ledger.evidence(held.position)
            self._add("answer", position, "was told of another booking", operation, evidence)
        elif not answer.replayed and (held.position != position or held.status != "reserved"):
            evidence = self._ledger.evidence(held.position)
            self._add("answer", position, "was told that it had just been reserved", operation, evidence)
        elif bool(held.fingerprint) != bool(asked.key):
            self._add("key", position, "the booking and the request do not have a key both", operation)
        if asked.key and answer.booking:
            self._booking_of_key[asked.user, asked.key] = answer.booking

    def _no_stock(self, state: State, position: int, operation: Operation) -> None:
        asked, answer = operation.asked, operation.answer
        assert answer is not None
        details = answer.details or Details()
        zone, requested = details.zone_id, details.requested
        if (zone, requested) not in asked.items:
            self._add("refusal", position, "was refused for what was not asked", operation)
            return
        counters, available = state.zones.get(zone), details.available
        left = counters[AVAILABLE] if counters else 0
        if left != available or left >= requested:
            self._add(
                "refusal", position, f"was told that {available} are left, and there were {left}", operation
            )
        held, units = state.units.get(asked.user, 0), units_asked(operation)
        if held + units > state.sale.limit and all(held + units > sale.limit for sale in state.sales()):
            text = f"no stock, and {held} held of {state.sale.limit}: the limit comes first"
            self._add("refusal", position, text, operation)
        due = state.next_due(zone)
        if due is not None and due[0] <= state.time_ms:
            evidence = self._ledger.evidence(state.bookings[due[1]].position)
            self._add("refusal", position, f"a hold was due since {due[0]}", operation, evidence)

    def _over_limit(self, state: State, position: int, operation: Operation) -> None:
        asked, answer = operation.asked, operation.answer
        assert answer is not None
        details = answer.details or Details()
        requested, told, limit = details.requested, details.held, details.limit
        held, units = state.units.get(asked.user, 0), units_asked(operation)
        if (requested, told) != (units, held) or all(limit != sale.limit for sale in state.sales()):
            text = f"was told {details}, and had {held} of {state.sale.limit}"
            self._add("refusal", position, text, operation)
        elif held + units <= limit:
            self._add("refusal", position, f"had {held}, asked for {units}, and may have {limit}", operation)
        for booking in state.holds_of.get(asked.user, ()):
            if state.bookings[booking].expires_at_ms <= state.time_ms:
                evidence = self._ledger.evidence(state.bookings[booking].position)
                self._add("refusal", position, "an own hold was due", operation, evidence)

    def _not_open(self, state: State, position: int, operation: Operation) -> None:
        until_ms = self._next_ms(position)
        for sale in state.sales():
            if not sale.is_open(state.time_ms):
                return
            if sale.end_ms if until_ms is None else not sale.is_open(until_ms):
                return
        self._add("refusal", position, f"the sale was {state.sale}", operation)

    def _key_reused(self, state: State, position: int, operation: Operation) -> None:
        """Right where the key's booking is there and has other items. What is not known is not judged."""
        asked = operation.asked
        booking = self._booking_of_key.get((asked.user, asked.key or ""))
        held = state.bookings.get(booking) if booking else None
        if held is not None and held.items == items_asked(operation):
            evidence = self._ledger.evidence(held.position)
            self._add(
                "key",
                position,
                "was told that the key had been used for another request",
                operation,
                evidence,
            )

    def _no_zone(self, state: State, position: int, operation: Operation) -> None:
        if all(zone in state.zones for zone, _ in operation.asked.items):
            self._add("refusal", position, "the zones are there", operation)

    def _confirmed(self, state: State, position: int, operation: Operation) -> None:
        self._must_be(state, position, operation, "confirmed")

    def _cancelled(self, state: State, position: int, operation: Operation) -> None:
        self._must_be(state, position, operation, "cancelled")

    def _must_be(self, state: State, position: int, operation: Operation, status: str) -> None:
        answer = operation.answer
        assert answer is not None
        held = self._own(state, position, operation)
        if held is None:
            return
        if held.status != status or answer.status != status or answer.booking != operation.asked.booking:
            evidence = self._ledger.evidence(held.position)
            self._add("answer", position, f"it was {held.status}", operation, evidence)
        elif answer.confirmation_code not in (None, held.code):
            self._add("answer", position, f"the code is {held.code}", operation)

    def _ended(self, state: State, position: int, operation: Operation) -> None:
        answer = operation.answer
        assert answer is not None
        held = self._own(state, position, operation)
        told = (answer.details or Details()).status
        wanted = "confirmed" if operation.asked.verb == "confirm" else "cancelled"
        if held is not None and (held.status != told or held.status in ("reserved", "expired", wanted)):
            evidence = self._ledger.evidence(held.position)
            self._add("refusal", position, f"it was {held.status}", operation, evidence)

    def _expired(self, state: State, position: int, operation: Operation) -> None:
        held = self._own(state, position, operation)
        if held is None or held.status == "expired":
            return
        until_ms = self._next_ms(position)
        if held.status != "reserved" or (until_ms is not None and until_ms < held.expires_at_ms):
            text = (
                f"it was {held.status} and its deadline {held.expires_at_ms}, the next entry is of {until_ms}"
            )
            self._add("refusal", position, text, operation, self._ledger.evidence(held.position))

    def _own(self, state: State, position: int, operation: Operation) -> Held | None:
        held = state.bookings.get(operation.asked.booking or "")
        if held is None or held.user != operation.asked.user:
            self._add("answer", position, "they have no such booking", operation)
            return None
        return held

    def _next_ms(self, position: int) -> int | None:
        """The time of the entry behind this one, in its epoch."""
        step = self._ledger.steps.get(position + 1)
        return step.at_ms if step is not None and (position + 1) >> SEQ_BITS == position >> SEQ_BITS else None
