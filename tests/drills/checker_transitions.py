"""Each ledger entry was possible when it was written: the successes of the inventory."""

from tests.drills.checker_evidence import position_text
from tests.drills.checker_ledger import (
    AnyStep,
    Cancel,
    Confirm,
    Edit,
    Expire,
    Ledger,
    Open,
    Reject,
    Reserve,
    items_of,
)
from tests.drills.checker_report import Report
from tests.drills.checker_state import AVAILABLE, Held, State

_NEXT = {Confirm: "confirmed", Cancel: "cancelled", Expire: "expired", Reject: "cancelled"}


class Transitions:
    """Takes the entries of a ledger to a state, one by one."""

    def __init__(self, ledger: Ledger, rejected: set[str], report: Report) -> None:
        self._ledger = ledger
        self._rejected = rejected
        """Bookings that Postgres refused."""
        self._report = report

    def apply(self, state: State, position: int, step: AnyStep) -> None:
        """Take one entry; whatever is wrong with it is reported, and it is taken all the same."""
        kind = type(step)
        if step.at_ms < state.time_ms and kind is not Open:
            self._add("time", position, f"the cell's time went back from {state.time_ms}")
        state.time_ms = step.at_ms
        if kind is Reserve:
            self._reserve(state, position, step)
        elif kind is Edit:
            if step.version != state.version + 1:
                self._add("edit", position, f"the cell had version {state.version}")
            state.edit(step.version, step.outcome == "applied", step.changes)
        elif kind is not Open:
            self._move(state, position, step)

    def _add(self, rule: str, position: int, text: str, *evidence: object) -> None:
        where = f"{self._ledger.tag} {position_text(position)}"
        self._report.add(rule, f"{where}: {text}", self._ledger.evidence(position), *evidence)

    def _reserve(self, state: State, position: int, step: Reserve) -> None:
        items = items_of(step)
        units = 0
        for zone, quantity in items:
            units += quantity
            counters = state.zones.get(zone)
            if counters is None:
                self._add("transition", position, f"there is no zone {zone}")
                return
            if counters[AVAILABLE] < quantity:
                self._add(
                    "oversold", position, f"{zone} had {counters[AVAILABLE]} of the {quantity} that were sold"
                )
        known = state.bookings.get(step.booking)
        if known is not None:
            before = self._ledger.evidence(known.position)
            self._add("transition", position, f"{step.booking} was there already, {known.status}", before)
            return
        held = state.units.get(step.user, 0) + units
        sale = state.sale
        if held > sale.limit and all(held > each.limit for each in state.sales()):
            self._add("limit", position, f"{step.user} has {held} units, {sale.limit} are allowed")
        if not sale.is_open(step.at_ms) and not any(each.is_open(step.at_ms) for each in state.sales()):
            self._add("not open", position, f"sold while the sale was {sale}")
        ttl_ms = step.expires_at_ms - step.at_ms
        if ttl_ms != sale.hold_ttl_ms and all(ttl_ms != each.hold_ttl_ms for each in state.sales()):
            self._add("deadline", position, f"a hold of {ttl_ms} ms, {sale.hold_ttl_ms} were to be given")
        state.reserve(
            step.booking,
            Held(step.user, "reserved", 1, items, units, step.expires_at_ms, position, step.fingerprint),
        )

    def _move(self, state: State, position: int, step: Confirm | Cancel | Expire | Reject) -> None:
        held = state.bookings.get(step.booking)
        if held is None:
            self._add("transition", position, f"there was no booking {step.booking}")
            return
        kind = type(step)
        is_confirm = kind is Confirm
        is_due = step.at_ms >= held.expires_at_ms
        wrong = (
            (held.status == "confirmed" and kind is not Reject) and "it was sold already",
            not held.is_live and f"it was {held.status} already",
            step.version != held.version + 1 and f"it had version {held.version}",
            step.user != held.user and f"it is {held.user}'s",
            items_of(step) != held.items and f"it had other items: {held.items}",
            not is_confirm and step.was != held.status and f"it was {held.status}",
            kind is Reject and step.booking not in self._rejected and "Postgres had not refused it",
        )
        for text in filter(None, wrong):
            self._add("transition", position, str(text), self._ledger.evidence(held.position))
        if (kind is Expire) != is_due and kind is not Reject:
            when = f"its deadline was {held.expires_at_ms}, {step.at_ms - held.expires_at_ms:+} ms"
            self._add("deadline", position, when, self._ledger.evidence(held.position))
        if held.is_live:
            code = step.code if is_confirm else None
            state.move(step.booking, held, _NEXT[kind], step.version, position, code)
