"""Gateways and workers: killed, and frozen until others have taken over, and then awake again as zombies."""

from functools import partial

from tests.drills.fault_redis import client_of
from tests.drills.faults import fault
from tests.drills.members import Member
from tests.drills.run import Scene
from tests.drills.stack import WORKERS

ALL_SHARE = 0.4
"""How often it hits every process of the kind at once."""
KILLS = (1, 3)
ZOMBIES = 4
"""Times over: what wakes them may also be the word that there is a new epoch."""


def chosen(scene: Scene, kind: str) -> list[Member]:
    """One process of the kind, or all of them."""
    members = scene.stack.of_kind(kind)
    return members if scene.random.random() < ALL_SHARE else [scene.random.choice(members)]


def names(members: list[Member]) -> str:
    """Theirs."""
    return " ".join(member.name for member in members)


async def kill(scene: Scene, kind: str) -> None:
    """kill -9, a moment without it, a new life; some times over."""
    for _ in range(scene.random.randint(*KILLS)):
        members = chosen(scene, kind)
        with scene.fault(f"{kind}-kill", names(members)):
            for member in members:
                member.kill()
            await scene.sleep(0.0, 1.0)
            for member in members:
                member.start()
        await scene.sleep(0.2, 1.0)


async def pause(scene: Scene, kind: str) -> None:
    """SIGSTOP, and SIGCONT in the middle of whatever it was doing."""
    members = chosen(scene, kind)
    with scene.fault(f"{kind}-pause", names(members)):
        for member in members:
            member.pause()
        await scene.sleep_a_while()
        for member in members:
            member.resume()


@fault("relay-zombie", "relay")
async def relay_zombie(scene: Scene) -> None:
    """All relays are frozen with something in their hands; when they wake up, a new epoch has begun."""
    members = scene.stack.of_kind("relay")
    for _ in range(ZOMBIES):
        with scene.fault("relay-zombie", names(members)):
            for member in members:
                member.pause()
            await scene.sleep(0.3, 0.6)
            async with client_of(scene.stack.redis) as client:
                await client.script_flush()
            await scene.sleep(0.8, 1.6)
            for member in members:
                member.resume()
        await scene.sleep(0.3, 0.8)


for _kind in ("gateway", *WORKERS):
    fault(f"{_kind}-kill", _kind)(partial(kill, kind=_kind))
    fault(f"{_kind}-pause", _kind)(partial(pause, kind=_kind))
