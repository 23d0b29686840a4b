"""What a simulated sale has shown, and whether the waiting room kept its word."""

from collections.abc import Callable, Sequence

import msgspec

from loadtest.simulation.crowd import BOUGHT, EMPTY, HOLDING, LEFT, WAITING, Crowd
from loadtest.simulation.deeds import Deeds
from loadtest.simulation.observer import Observer
from loadtest.simulation.options import Plan
from loadtest.simulation.witnesses import Witness, is_near

NEAR_MIN, VAIN_MAX, EARLY_MIN = 0.9, 0.05, 0.8
"""What the waiting room promises: so many estimates near, so few told `unlikely` in error, so many early."""
FEW = 20
"""Of fewer people than these a share says nothing."""


class Point(msgspec.Struct, frozen=True):
    """How it stood at one moment."""

    at_s: float
    waiting: int
    out: int
    available: int
    reserved: int
    confirmed: int
    admitted: int
    waited_s: float | None
    """How long those had waited, on average, who were let in since the point before."""


class Share(msgspec.Struct, frozen=True):
    """So many of so many."""

    hits: int
    people: int

    @property
    def value(self) -> float:
        """From 0 to 1; 0 of none is 0."""
        return self.hits / self.people if self.people else 0.0

    def __str__(self) -> str:
        return f"{self.value:.1%} of {self.people:,}" if self.people else "of nobody"


class Check(msgspec.Struct, frozen=True):
    """One promise, and whether it was kept."""

    promise: str
    measured: str
    holds: bool


class Result(msgspec.Struct, frozen=True):
    """One simulated sale."""

    plan: Plan
    checks: list[Check]
    figures: dict[str, str]
    points: list[Point]

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return all(check.holds for check in self.checks)


def judge(
    plan: Plan,
    crowd: Crowd,
    deeds: Deeds,
    observer: Observer,
    witnesses: Sequence[Witness],
    points: list[Point],
    place_of: Callable[[int], int],
    *,
    wall_s: float,
) -> Result:
    """All of it, from what was seen."""
    told = [witness for witness in witnesses if witness.told]
    served = [witness for witness in told if witness.person in deeds.served_at_s]
    half_way = _near(served, deeds, lambda first_s, last_s: (first_s + last_s) / 2)
    at_first = _near(served, deeds, lambda first_s, _: first_s)

    def would_have_got(witness: Witness) -> bool:
        """Also who left, where their turn would have come: they cannot have known better."""
        found_nothing = crowd.state[witness.person] == EMPTY
        return place_of(crowd.number[witness.person]) <= observer.serving and not found_nothing

    discouraged = [witness for witness in told if witness.first_unlikely_s is not None]
    wrongly = Share(sum(map(would_have_got, discouraged)), len(discouraged))
    in_vain = [witness for witness in told if not would_have_got(witness)]
    early = Share(sum(_is_told_early(witness, plan, crowd, deeds) for witness in in_vain), len(in_vain))
    hopeful = [witness for witness in told if any(each.outlook == "likely" for each in witness.told)]
    checks = [
        Check("passes out never exceed the bound", _times(observer.bound_broken), observer.bound_broken == 0),
        Check(
            "nobody is overtaken", _times(observer.overtaken + deeds.turned_away),
            observer.overtaken + deeds.turned_away == 0,
        ),
        Check(
            "one person, one number, whatever tab", _times(observer.other + deeds.two_numbers),
            observer.other + deeds.two_numbers == 0,
        ),
        Check(
            "the estimate is within 30 s or 20 % for 90 % of those let in", str(half_way),
            half_way.value >= NEAR_MIN or half_way.people < FEW,
        ),
        Check(
            "of those told `unlikely` fewer than 5 % would have got a seat", str(wrongly),
            wrongly.value < VAIN_MAX or wrongly.people < FEW,
        ),
        Check(
            "of those in vain 80 % are told `unlikely` before half of their wait", str(early),
            early.value >= EARLY_MIN or early.people < FEW,
        ),
    ]  # fmt: skip
    waits = sorted(deeds.served_at_s[person] - _since_s(person, plan, crowd) for person in deeds.served_at_s)
    states = crowd.state
    figures = {
        "came": f"{deeds.arrived:,}",
        "let in": f"{observer.admitted:,}",
        "with seats": f"{states.count(BOUGHT) + states.count(HOLDING):,}",
        "seats sold": f"{observer.confirmed:,} of {plan.seats:,}",
        "gave their place up": f"{observer.left:,}",
        "closed the window": f"{sum(deeds.silent):,}",
        "had a pass and found nothing": f"{states.count(EMPTY):,}",
        "most passes out": f"{observer.out_most:,} of {plan.passes_max:,}",
        "the sale lasted": _duration(deeds.now_s - plan.sale_starts_s),
        "let in a second, on average": f"{observer.admitted / max(deeds.now_s - plan.sale_starts_s, 1):.1f}",
        "wait of those let in": " / ".join(
            f"{name} {_duration(_percentile(waits, share))}"
            for name, share in (("median", 0.5), ("90 %", 0.9), ("longest", 1.0))
        ),
        "estimate near when first told": str(at_first),
        "of those told `likely`, came to their turn": str(
            Share(sum(map(would_have_got, hopeful)), len(hopeful))
        ),
        "waiting at the end": f"{states.count(WAITING):,} ({states.count(LEFT):,} had left)",
        "computed in": _duration(wall_s),
    }
    return Result(plan, checks, figures, points)


def _since_s(person: int, plan: Plan, crowd: Crowd) -> float:
    """When somebody began to wait: before the draw of a lottery nobody has a place to wait in."""
    return max(crowd.joined_s[person], plan.room_opens_s)


def _near(served: Sequence[Witness], deeds: Deeds, moment: Callable[[float, float], float]) -> Share:
    """Whose estimate at a moment of their wait was near."""
    hits = 0
    for witness in served:
        served_s = deeds.served_at_s[witness.person]
        at_s = moment(witness.told[0].at_s, served_s)
        told = witness.told_at(at_s)
        hits += is_near(told.wait_s, served_s - told.at_s)
    return Share(hits, len(served))


def _is_told_early(witness: Witness, plan: Plan, crowd: Crowd, deeds: Deeds) -> bool:
    first_s, told_s = _since_s(witness.person, plan, crowd), witness.first_unlikely_s
    last_s = crowd.ended_s[witness.person] or deeds.now_s
    return told_s is not None and told_s <= (first_s + last_s) / 2


def _percentile(values: Sequence[float], share: float) -> float:
    return values[min(int(share * len(values)), len(values) - 1)] if values else 0.0


def _times(count: int) -> str:
    return "never" if count == 0 else f"{count:,} times"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02} s"
        if whole < 3600
        else f"{whole // 3600} h {whole % 3600 // 60:02} min"
    )


def render(result: Result, problems: Sequence[str] = ()) -> str:
    """The result for a person: figures, then promises."""
    width = max(len(name) for name in result.figures)
    lines = [f"  {name:<{width}}  {value}" for name, value in result.figures.items()]
    lines.append("")
    for check in result.checks:
        lines.append(f"  {'held  ' if check.holds else 'BROKEN'}  {check.promise}: {check.measured}")
    lines += [f"          {problem}" for problem in problems]
    return "\n".join(lines)
