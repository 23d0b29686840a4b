"""Which faults happen in which run. A scenario is a text that can be typed again:

redis-kill                      one fault
redis-kill+relay-pause          two that overlap
redis-kill,relay-pause+redis-cut,gateway-kill      one after the other
"""

import asyncio
import random
from collections.abc import Sequence
from typing import NamedTuple

from tests.drills.faults import LINK, Fault, all_faults
from tests.drills.run import Scene, Strike

OVERLAPPING = 3
"""In every so-manieth run there are two faults at a time."""
STEPS = 12
"""Faults of a run of the long profile."""
OFTEN_WITH = ("redis-storm", "redis-storm", "redis-storm", "redis-kill", "redis-cut", "redis-empty")
"""What comes on top of another fault in the short profile: a Redis that dies meanwhile."""
DEATHS_MIN = 50
"""Deaths of Redis in the short profile."""
TWO_MACHINES_EVERY = 10
"""Of the long profile every so-manieth run is one on two machines."""
ON_TWO_MACHINES_TOO = frozenset(
    {
        *("gateway-kill", "relay-kill", "relay-pause", "recovery-kill", "recovery-pause"),
        *("redis-kill", "redis-storm", "redis-pause", "redis-cut", "redis-empty", "redis-flushall"),
        *("postgres-kill", "postgres-stop", "postgres-pause"),
    }
)
ON_TOP_S = (0.0, 1.2)
BETWEEN_S = (0.3, 4.0)


class Planned(NamedTuple):
    """A run to be done."""

    seed: int
    scenario: str


class UnknownFault(Exception):
    """There is no such fault here; the message says which there are."""


def usable() -> dict[str, Fault]:
    """The faults that this machine can make happen."""
    return {name: fault for name, fault in all_faults().items() if fault.missing() is None}


def takes_two_machines(scenario: str) -> bool:
    """Whether the parts have to be on two machines for it."""
    faults = all_faults()
    return any(faults[name].target == LINK for step in scenario.split(",") for name in step.split("+"))


def _besides(faults: dict[str, Fault], name: str) -> list[str]:
    """What can happen at the same time."""
    return sorted(other for other, fault in faults.items() if fault.target not in (faults[name].target, LINK))


def short_plan(seed: int) -> list[Planned]:
    """Every fault once, in an order that follows the seed, a third of them with another one on top. Those
    that take two machines come last."""
    faults = usable()
    choice = random.Random(f"{seed} plan")
    names = sorted(faults)
    choice.shuffle(names)
    names.sort(key=lambda name: faults[name].target == LINK)
    plan = []
    for number, name in enumerate(names):
        scenario = name
        if number % OVERLAPPING == 0:
            besides = _besides(faults, name)
            others = [other for other in OFTEN_WITH if other in besides] or besides
            scenario = f"{name}+{choice.choice(others)}"
        plan.append(Planned(seed, scenario))
    return plan


def long_plan(seeds: Sequence[int]) -> list[Planned]:
    """A run of many faults for each seed, some of them on two machines."""
    plan = []
    for seed in seeds:
        faults = usable()
        is_on_two = seed % TWO_MACHINES_EVERY == 0 and any(fault.target == LINK for fault in faults.values())
        faults = {
            name: fault
            for name, fault in faults.items()
            if (is_on_two and (fault.target == LINK or name in ON_TWO_MACHINES_TOO))
            or (not is_on_two and fault.target != LINK)
        }
        choice = random.Random(f"{seed} plan")
        steps = []
        for number in range(STEPS):
            name = choice.choice(sorted(faults))
            is_double = number % OVERLAPPING == 0
            steps.append(f"{name}+{choice.choice(_besides(faults, name))}" if is_double else name)
        plan.append(Planned(seed, ",".join(steps)))
    return plan


def strike_of(scenario: str) -> Strike:
    """What makes a scenario happen; raises UnknownFault."""
    faults = all_faults()
    steps = [step.split("+") for step in scenario.split(",")]
    for name in (name for step in steps for name in step):
        if name not in faults:
            raise UnknownFault(f"there is no fault {name!r}; there are: {', '.join(sorted(faults))}")
        if (missing := faults[name].missing()) is not None:
            raise UnknownFault(f"{name} cannot happen here: {missing}")

    async def strike(scene: Scene) -> None:
        for number, step in enumerate(steps):
            if number:
                await scene.sleep(*BETWEEN_S)
            together = []
            for place, name in enumerate(step):
                own = scene.own(f"{number} {name}")
                delay_s = scene.random.uniform(*ON_TOP_S) if place else 0.0
                together.append(_after(delay_s, faults[name].strike, own))
            # All of them end, also where one goes wrong: it is mended before that is told.
            done = await asyncio.gather(*together, return_exceptions=True)
            for error in done:
                if error is not None:
                    raise error

    return strike


async def _after(delay_s: float, strike: Strike, scene: Scene) -> None:
    await asyncio.sleep(delay_s)
    await strike(scene)
