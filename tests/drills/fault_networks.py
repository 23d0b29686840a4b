"""The network between any two parts: slow, stalled, losing answers, cut, half-open."""

from collections.abc import Callable
from functools import partial

from tests.drills.faults import fault
from tests.drills.run import Scene
from tests.drills.stack import CLIENTS
from tests.integration.proxy import Proxy

DELAY_S = (0.01, 0.3)
ALL_SHARE = 0.3
"""How often every way to that store is broken at once."""

Breaks = Callable[[Scene, Proxy], None]


def _delay(scene: Scene, way: Proxy) -> None:
    way.delay_s = scene.random.uniform(*DELAY_S)


def _stall(scene: Scene, way: Proxy) -> None:
    way.stall()


def _drop_replies(scene: Scene, way: Proxy) -> None:
    way.drop_replies()


def _reset(scene: Scene, way: Proxy) -> None:
    way.reset()


def _lose(scene: Scene, way: Proxy) -> None:
    way.lose()


BREAKS: dict[str, Breaks] = {
    "delay": _delay,
    "stall": _stall,
    "dropped-reply": _drop_replies,
    "reset": _reset,
    "half-open": _lose,
}
RESETS = (3, 8)
RECOVERS_BY_ITSELF_S = (0.3, 2.0)


async def break_network(scene: Scene, other: str, how: str) -> None:
    """Break the way between somebody and `other`, for a while."""
    ways = {name: way for (name, to), way in scene.stack.networks.items() if to == other}
    chosen = sorted(ways) if scene.random.random() < ALL_SHARE else [scene.random.choice(sorted(ways))]
    with scene.fault(f"{other}-{how}", "to everybody" if len(chosen) > 1 else f"to {chosen[0]}"):
        if how == "reset":
            for _ in range(scene.random.randint(*RESETS)):
                for name in chosen:
                    ways[name].reset()
                await scene.sleep(0.02, 0.5)
            return
        for name in chosen:
            BREAKS[how](scene, ways[name])
        await scene.sleep_a_while(0.5, 20.0)
        for name in chosen:
            ways[name].heal()


for _other in (CLIENTS, "redis", "postgres"):
    for _how in BREAKS:
        fault(f"{_other}-{_how}", f"network to {_other}")(partial(break_network, other=_other, how=_how))
