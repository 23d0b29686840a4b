"""What people are told while they wait, and what became of it."""

from typing import NamedTuple

from engine.waiting.estimate import (
    Outlook,
    Pace,
    Stock,
    expected_wait_s,
    outlook,
    pace,
    poll_after_ms,
)
from loadtest.simulation.options import Plan

NEAR_S, NEAR_SHARE = 30.0, 0.2
"""An estimate is good that is off by less than one or the other."""


class View(NamedTuple):
    """What a gateway knows of the queue at one moment."""

    moves: list[tuple[int, int]]
    stock: Stock
    now_ms: int
    sale_starts_in_s: float


class Told(NamedTuple):
    """One answer to somebody who waits."""

    at_s: float
    wait_s: int
    outlook: Outlook


class Witness:
    """Somebody who asks as often as they are told to."""

    __slots__ = ("first_unlikely_s", "person", "told")

    def __init__(self, person: int) -> None:
        self.person = person
        self.told: list[Told] = []
        self.first_unlikely_s: float | None = None

    def hear(self, told: Told) -> None:
        """Take in an answer."""
        self.told.append(told)
        if told.outlook == "unlikely" and self.first_unlikely_s is None:
            self.first_unlikely_s = told.at_s

    def told_at(self, at_s: float) -> Told:
        """What they had been told last at that moment."""
        before = self.told[0]
        for told in self.told:
            if told.at_s > at_s:
                break
            before = told
        return before


def pace_of(plan: Plan, view: View) -> Pace:
    """How fast the queue moves, as a gateway reckons it."""
    return pace(view.moves, view.now_ms, plan.admissions_per_second, plan.passes_max, view.stock)


def answer(view: View, queue_pace: Pace, ahead: int, at_s: float, random: float) -> tuple[Told, float]:
    """What somebody with so many people ahead is told, and the seconds until they ask again."""
    wait_s = expected_wait_s(ahead, queue_pace, view.sale_starts_in_s)
    told = Told(at_s, wait_s, outlook(ahead, view.stock))
    return told, poll_after_ms(ahead, wait_s, random) / 1000


def is_near(told_s: float, true_s: float) -> bool:
    """Whether an estimate was good."""
    return abs(told_s - true_s) <= max(NEAR_S, NEAR_SHARE * true_s)
