"""The people of a simulated sale: what each is going to do, drawn once from the seed."""

import math
import random

from loadtest.profile import Profile
from loadtest.simulation.options import Plan

AWAY, WAITING, LEFT, SERVED, CHOOSING, HOLDING, BOUGHT, EMPTY = range(8)
"""Not there yet; in the queue; gone from it; served; with a pass; with a hold; with a seat; with nothing."""

SPREAD, PAY_SPREAD = 0.6, 0.7
"""Of the logarithms of times: most people take about the median, a few take several times as long."""

_SUFFIX = bytes.fromhex("000040008000000000000000")


def user_bytes(person: int) -> bytes:
    """The 16 bytes of somebody's id."""
    return person.to_bytes(4, "big") + _SUFFIX


def user_text(person: int) -> str:
    """Somebody's id."""
    return f"{person:08x}-0000-4000-8000-000000000000"


def person_of(user: str) -> int:
    """Whose id this is."""
    return int(user[:8], 16)


class Crowd:
    """Everybody, by their number in the order in which they come, from 0 on."""

    def __init__(self, plan: Plan, profile: Profile) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self.state = bytearray(plan.people)
        self.number = [0] * plan.people
        self.joined_s = [0.0] * plan.people
        self.ended_s = [0.0] * plan.people
        """When they were served, or gave up waiting."""
        self._weights = [basket.weight for basket in profile.baskets]
        self._baskets = [tuple(basket.items.items()) for basket in profile.baskets]

    def arrived_by(self, now_s: float) -> int:
        """How many have come by then."""
        plan = self._plan
        if plan.arrive_s <= 0 or now_s >= plan.arrive_s:
            return plan.people
        return int(plan.people * now_s / plan.arrive_s)

    def happens(self, share: float) -> bool:
        """Whether something that so many do happens now."""
        return self._random.random() < share

    def takes_s(self, median_s: float, spread: float = SPREAD) -> float:
        """How long somebody takes for something."""
        return median_s * math.exp(self._random.gauss(0.0, spread))

    def patience_s(self) -> float:
        """After how long somebody impatient gives up."""
        return self._random.expovariate(1 / self._plan.patience_s)

    def within_s(self, seconds: float) -> float:
        """Some moment of that time."""
        return self._random.uniform(0, seconds)

    def share(self) -> float:
        """Any number from 0 to 1."""
        return self._random.random()

    def basket(self) -> tuple[tuple[str, int], ...]:
        """What somebody wants: (zone name, quantity)."""
        return self._random.choices(self._baskets, self._weights)[0]

    def any_of(self, names: list[str]) -> str:
        """One of these zones."""
        return self._random.choice(names)
