"""From what was told, and what the audit found, to a verdict. Values in, values out."""

from array import array
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from engine.audit_report import Report
from loadtest.queue_tally import QueueFacts
from loadtest.tally import LATE_S, Tally

EXIT_CLEAN, EXIT_VIOLATED, EXIT_UNKNOWN = 0, 1, 2
PERCENTILES = (50, 95, 99)
LOST = frozenset({"confirmed_and_lost", "reserved_and_lost", "entry_lost", "booking_missing_in_postgres"})
VIOLATIONS_TOLD_MAX = 50


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds of one kind of request."""

    kind: str
    answers: int
    due_ms: list[float]
    """P50, P95, P99 and the longest, from when it was due: what the buyer waited."""
    sent_ms: list[float]
    """The same from when it was sent: what the system took."""


class ZoneSale(msgspec.Struct, frozen=True):
    """One zone at the end."""

    name: str
    capacity: int
    told: int
    """Seats that buyers were told are theirs."""
    confirmed: int | None
    """Seats that Redis counts as confirmed; None where the audit could not look."""
    reserved: int | None


class Second(msgspec.Struct, frozen=True):
    """One second of the run."""

    at_s: int
    answered: int
    accepted: int
    refused: int
    errors: int
    p99_ms: float


class Verdict(msgspec.Struct, kw_only=True):
    """What the run has shown."""

    state: Literal["clean", "violated", "unknown"]
    is_interrupted: bool
    people: int
    arrived: int
    seconds: float
    rate_per_s: float
    """Arrivals a second, as they were: not as they were planned."""
    answers: int
    accepted: int
    replays: int
    confirmed: int
    cancelled: int
    refusals: dict[str, int]
    errors: dict[str, int]
    unknown_resolved: int
    unknown_left: int
    latencies: list[Latency]
    late_starts: int
    late_p99_ms: float
    late_max_ms: float
    zones: list[ZoneSale]
    capacity: int
    sold: int
    oversold: int
    lost: int
    violations: list[str]
    notes: list[str]
    timeline: list[Second]
    queue: QueueFacts | None = None

    @property
    def exit_status(self) -> int:
        """0 clean, 1 violated, 2 where it could not be found out."""
        return {"clean": EXIT_CLEAN, "violated": EXIT_VIOLATED, "unknown": EXIT_UNKNOWN}[self.state]


def percentiles(values: "Sequence[float] | array[float]") -> list[float]:
    """P50, P95, P99 (nearest rank) and the largest; zeros for none."""
    if not values:
        return [0.0] * (len(PERCENTILES) + 1)
    ordered = sorted(values)
    ranks = [max(0, -(-len(ordered) * percent // 100) - 1) for percent in PERCENTILES]
    return [round(ordered[rank], 2) for rank in ranks] + [round(ordered[-1], 2)]


def contradictions(tally: Tally) -> Iterator[str]:
    """What is wrong by what clients were told alone, whatever the stores say."""
    plan = tally.plan
    yield from tally.found
    if plan.queue is not None:
        yield from tally.queue.contradictions(plan.queue)
    for zone_id, seats in tally.confirmed_by_zone().items():
        if seats > plan.capacities[zone_id]:
            name, capacity = plan.zone_names[zone_id], plan.capacities[zone_id]
            yield f"oversold: {name} has {capacity} seats, {seats} were confirmed"
    for user_id, seats in tally.confirmed_by_user().items():
        if seats > plan.max_per_user:
            yield f"over the limit: {user_id} was given {seats} seats, the limit is {plan.max_per_user}"


def judge(tally: Tally, report: Report | None, *, is_interrupted: bool = False) -> Verdict:
    """The verdict; `report` is None where no audit could be made."""
    plan = tally.plan
    violations = list(contradictions(tally))
    zones = list(_zones(tally, report))
    oversold = sum(max(0, max(zone.told, zone.confirmed or 0) - zone.capacity) for zone in zones)
    lost, notes = 0, []
    if report is not None:
        for event in report.events:
            lost += sum(count for what, count in event.counts.items() if what in LOST)
            notes += event.notes
            violations += [
                f"{each.rule}. {each.what}: {each.subject}: {each.detail}" for each in event.violations
            ]
            if event.violations_total > len(event.violations):
                violations.append(f"… and {event.violations_total - len(event.violations)} more")
        notes += [f"could not look: {problem}" for problem in report.problems]
    else:
        notes.append("no audit was made")
    if not tally.accepted:
        notes.append("nobody was told that a seat is theirs: this run shows nothing")
    if not tally.is_complete:
        notes.append("not every client process finished: what its people were told last is not known")
    is_sure = report is not None and not report.problems and tally.is_complete and tally.accepted > 0
    resolved, left = tally.unknown()
    late = percentiles(tally.late_ms)
    seconds = max(0.0, tally.last_s - (tally.first_s or tally.last_s))
    arriving_s = max(0.0, tally.last_arrival_s - (tally.first_s or tally.last_arrival_s))
    return Verdict(
        state="violated" if violations else "clean" if is_sure else "unknown",
        is_interrupted=is_interrupted,
        people=plan.people,
        arrived=tally.arrived,
        seconds=round(seconds, 1),
        rate_per_s=round(tally.arrived / arriving_s, 1) if arriving_s else 0.0,
        answers=sum(tally.answers.values()),
        accepted=tally.accepted,
        replays=tally.replays,
        confirmed=sum(heard.is_confirmed for heard in tally.bookings.values()),
        cancelled=sum(heard.is_cancelled for heard in tally.bookings.values()),
        refusals=dict(tally.refusals.most_common()),
        errors=dict(tally.errors.most_common()),
        unknown_resolved=resolved,
        unknown_left=left,
        latencies=[
            Latency(kind, len(values), percentiles(values), percentiles(tally.service_ms[kind]))
            for kind, values in sorted(tally.latencies_ms.items(), reverse=True)
        ],
        late_starts=sum(late_ms > LATE_S * 1000 for late_ms in tally.late_ms),
        late_p99_ms=late[2],
        late_max_ms=late[3],
        zones=zones,
        capacity=sum(plan.capacities.values()),
        sold=sum(zone.told if zone.confirmed is None else zone.confirmed for zone in zones),
        oversold=oversold,
        lost=lost,
        violations=violations[:VIOLATIONS_TOLD_MAX],
        notes=notes,
        timeline=_timeline(tally),
        queue=tally.queue.facts(plan.queue) if plan.queue is not None else None,
    )


def _zones(tally: Tally, report: Report | None) -> Iterator[ZoneSale]:
    told = tally.confirmed_by_zone()
    seen = {zone.id: zone for event in report.events for zone in event.zones} if report is not None else {}
    for zone_id, capacity in tally.plan.capacities.items():
        zone = seen.get(zone_id)
        yield ZoneSale(
            name=tally.plan.zone_names[zone_id],
            capacity=capacity,
            told=told.get(zone_id, 0),
            confirmed=zone.confirmed if zone else None,
            reserved=zone.reserved if zone else None,
        )


def _timeline(tally: Tally) -> list[Second]:
    return [
        Second(
            at_s, each.answered, each.accepted, each.refused, each.errors, percentiles(each.latencies_ms)[2]
        )
        for at_s, each in sorted(tally.slices.items())
    ]
