"""What an audit found, and how a person reads it."""

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

import msgspec

VIOLATIONS_SHOWN_MAX = 100
"""Of one event; the others are counted."""
NOTES_MAX = 20

RULES = {
    1: "every zone adds up",
    2: "every buyer's units are exact and within the limit",
    3: "every ledger entry counts once, and Redis and Postgres agree",
    4: "what was answered to a buyer is true",
    5: "every payment ends in a confirmed booking or a refund",
}
"""DESIGN.md, section 11."""

EXIT_CLEAN = 0
EXIT_VIOLATIONS = 1
EXIT_BLIND = 2


class Violation(msgspec.Struct, frozen=True):
    """Something that must never be so."""

    rule: int
    """Its number in section 11 of the design."""
    what: str
    """Which kind, in snake_case."""
    subject: str
    """The zone, booking, user or ledger entry."""
    detail: str


class ZoneState(msgspec.Struct, frozen=True):
    """A zone as Redis had it, or Postgres where the cell has left Redis."""

    id: UUID
    name: str
    capacity: int
    available: int
    reserved: int
    confirmed: int
    blocked: int

    @property
    def adds_up(self) -> bool:
        """Rule 1."""
        counters = (self.available, self.reserved, self.confirmed, self.blocked)
        return min(counters) >= 0 and sum(counters) == self.capacity


class EventReport(msgspec.Struct):
    """What was found in one event."""

    event_id: UUID
    title: str
    state: str = "open"
    """open, closed (its sale is over and it has left Redis) or not open."""
    position: str = ""
    """Up to where the ledger was looked at."""
    zones: list[ZoneState] = []
    bookings: dict[str, int] = {}
    """How many of each status, in Postgres."""
    buyers: int = 0
    ledger_entries: int = 0
    dead_letters: int = 0
    violations: list[Violation] = []
    counts: dict[str, int] = {}
    """How many violations of each kind; more than are listed where there are many."""
    notes: list[str] = []
    problem: str | None = None
    """Why it could not be looked at, or not to the end."""

    def violated(self, rule: int, what: str, subject: object, detail: str) -> None:
        """Take a violation down."""
        self.counts[what] = self.counts.get(what, 0) + 1
        if len(self.violations) < VIOLATIONS_SHOWN_MAX:
            self.violations.append(Violation(rule, what, str(subject), detail))

    def note(self, text: str) -> None:
        """Take down what is worth knowing and no violation."""
        if len(self.notes) < NOTES_MAX and text not in self.notes:
            self.notes.append(text)

    @property
    def violations_total(self) -> int:
        """How many there are, listed or not."""
        return sum(self.counts.values())


class Report(msgspec.Struct):
    """What an audit found."""

    events: list[EventReport] = []
    problem: str | None = None
    """Why nothing could be looked at."""
    seconds: float = 0.0

    @property
    def violations(self) -> list[Violation]:
        """All that are listed."""
        return [violation for event in self.events for violation in event.violations]

    @property
    def problems(self) -> list[str]:
        """Why not all could be looked at."""
        found = [self.problem] if self.problem else []
        return found + [f"{event.title}: {event.problem}" for event in self.events if event.problem]

    @property
    def exit_status(self) -> int:
        """0 clean, 1 violations, 2 could not look."""
        if any(event.counts for event in self.events):
            return EXIT_VIOLATIONS
        return EXIT_BLIND if self.problems else EXIT_CLEAN


def to_json(report: Report) -> str:
    """The report as one JSON object, with what its properties say."""
    fields = msgspec.to_builtins(report)
    fields["exit_status"] = report.exit_status
    return msgspec.json.format(msgspec.json.encode(fields), indent=2).decode()


def render(report: Report) -> str:
    """The report as a person reads it."""
    lines: list[str] = []
    for event in report.events:
        lines += [*_render_event(event), ""]
    if not report.events and not report.problem:
        lines.append("No event was ever published: there is nothing to audit.")
    lines += [f"Could not look: {problem}" for problem in report.problems]
    total = sum(event.violations_total for event in report.events)
    verdict = {
        EXIT_CLEAN: "clean: nothing oversold, nothing lost, nothing counted twice",
        EXIT_VIOLATIONS: f"{total} VIOLATION{'S' if total != 1 else ''}",
        EXIT_BLIND: "no violation seen, but not everything could be looked at",
    }[report.exit_status]
    lines.append(f"{verdict} ({report.seconds:.1f} s)")
    return "\n".join(lines)


def _render_event(event: EventReport) -> Iterator[str]:
    at = f", ledger {event.position}" if event.position else ""
    yield f"{event.title}  {event.event_id}  {event.state}{at}"
    if event.zones:
        width = max(len("zone"), *(len(zone.name) for zone in event.zones))
        yield f"  {'zone':<{width}}  capacity  available  reserved  confirmed  blocked"
        for zone in event.zones:
            yield (
                f"  {zone.name:<{width}}  {zone.capacity:>8,}  {zone.available:>9,}  {zone.reserved:>8,}"
                f"  {zone.confirmed:>9,}  {zone.blocked:>7,}{'' if zone.adds_up else '   <- does not add up'}"
            )
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(event.bookings.items()))
    yield (
        f"  bookings: {statuses or 'none'}; buyers: {event.buyers:,}; "
        f"ledger entries read: {event.ledger_entries:,}; dead letters: {event.dead_letters:,}"
    )
    by_rule = Counter(violation.rule for violation in event.violations)
    for rule, text in RULES.items():
        if by_rule[rule]:
            yield f"  {rule}. {text}: VIOLATED"
            for violation in event.violations:
                if violation.rule == rule:
                    yield f"     {violation.what}: {violation.subject}: {violation.detail}"
    if event.violations_total > len(event.violations):
        yield f"     … and {event.violations_total - len(event.violations):,} more"
    for note in event.notes:
        yield f"  note: {note}"
