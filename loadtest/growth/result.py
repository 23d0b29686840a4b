"""What a run has found: medians, how they grow, and the verdict of each operation."""

import statistics
from collections.abc import Mapping, Sequence

import msgspec

from loadtest.growth.background import Idle, Rewrite, Upkeep
from loadtest.growth.fill import Memory
from loadtest.growth.options import RigPlan
from loadtest.growth.surge import Surge
from loadtest.growth.turn import CONTROLS, OPERATIONS, Turn

GROWTH_MAX = 1.20
"""The largest may cost so many times what the smallest does: 20 % more."""


class Point(msgspec.Struct, frozen=True):
    """One operation at one size."""

    at: int
    """Live holds, or events on sale."""
    median_us: float
    lowest_us: float
    highest_us: float


class Line(msgspec.Struct, frozen=True):
    """One operation over all sizes, smallest first."""

    operation: str
    points: list[Point]

    @property
    def growth(self) -> float:
        """What the largest size costs, as a multiple of the smallest."""
        return self.points[-1].median_us / self.points[0].median_us

    @property
    def added_us(self) -> float:
        """By how much it costs more."""
        return self.points[-1].median_us - self.points[0].median_us

    @property
    def is_flat(self) -> bool:
        """The verdict. Rounded as it is printed, so that no line contradicts itself."""
        return round(self.growth, 2) <= GROWTH_MAX

    @property
    def is_control(self) -> bool:
        """Whether it is no operation of ours."""
        return self.operation in CONTROLS


class Place(msgspec.Struct, frozen=True):
    """Where and when a run was."""

    machine: str
    cores: int
    date: str
    commit: str
    command: str
    rounds: int
    slice_entries: int
    seconds: float


class Result(msgspec.Struct, frozen=True):
    """All of a run."""

    place: Place
    by_holds: list[Line]
    by_events: list[Line]
    memory: list[Memory]
    idle: list[Idle]
    surge: Surge | None
    rewrite: Rewrite | None
    upkeep: Upkeep | None


Turns = Mapping[RigPlan, Sequence[Turn]]


def lines_by_holds(turns: Turns) -> list[Line]:
    """How cost grows with the live holds in one event."""
    return _lines({plan.holds: made for plan, made in turns.items() if plan.events == 1})


def lines_by_events(turns: Turns, holds: int) -> list[Line]:
    """How cost grows with the events on sale, with so many holds in the one that is bought."""
    return _lines({plan.events: made for plan, made in turns.items() if plan.holds == holds})


def _lines(by_size: Mapping[int, Sequence[Turn]]) -> list[Line]:
    sizes = sorted(size for size, made in by_size.items() if made)
    if len(sizes) < 2:
        return []
    return [
        Line(operation, [_point(size, [turn.costs[operation] for turn in by_size[size]]) for size in sizes])
        for operation in OPERATIONS
        if operation in by_size[sizes[0]][0].costs
    ]


def _point(size: int, values_us: Sequence[float]) -> Point:
    return Point(size, statistics.median(values_us), min(values_us), max(values_us))
