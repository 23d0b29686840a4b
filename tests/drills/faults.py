"""What can go wrong, by name. A fault is a function of a scene; it returns when all is mended again.

    @fault("relay-kill", target="relay")
    async def relay_kill(scene: Scene) -> None: ...

What it does and when follows from the seed alone (`scene.random`, `scene.a_while`); how the processes happen
to interleave does not. Two faults with different targets can happen at the same time.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tests.drills.run import Scene

Strike = Callable[[Scene], Awaitable[None]]


class Fault(NamedTuple):
    """One of them."""

    name: str
    target: str
    """What it breaks."""
    strike: Strike
    missing: Callable[[], str | None]
    """What this machine lacks for it, in a word."""


LINK = "link"
"""The target of faults that take two machines."""
FAULTS: dict[str, Fault] = {}


def fault(
    name: str, target: str, missing: Callable[[], str | None] = lambda: None
) -> Callable[[Strike], Strike]:
    """Register a fault."""

    def register(strike: Strike) -> Strike:
        assert name not in FAULTS, name
        FAULTS[name] = Fault(name, target, strike, missing)
        return strike

    return register


def all_faults() -> dict[str, Fault]:
    """Every fault there is, of every module."""
    from tests.drills import (  # noqa: F401 - they register themselves
        fault_clocks,
        fault_links,
        fault_networks,
        fault_postgres,
        fault_processes,
        fault_promotions,
        fault_redis,
    )

    return dict(FAULTS)
