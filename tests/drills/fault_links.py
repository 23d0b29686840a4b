"""The link between the applications' machine and the stores': cut, slow, open in one direction only."""

from tests.drills.faults import LINK, fault
from tests.drills.machines import Machines, TwoMachines, missing, missing_delay
from tests.drills.run import Scene

DELAY_MS = (20, 150)


def _machines(scene: Scene) -> Machines:
    assert isinstance(scene.stack, TwoMachines), "it takes two machines"
    return scene.stack.machines


@fault("link-cut", LINK, missing)
async def link_cut(scene: Scene) -> None:
    """Nothing passes any more, for a while."""
    with scene.fault("link-cut"):
        _machines(scene).cut(at_the_stores=scene.random.random() < 0.5)
        await scene.sleep_a_while(1.0, 30.0)
        _machines(scene).heal()


@fault("link-one-way", LINK, missing)
async def link_one_way(scene: Scene) -> None:
    """The stores hear and are not heard, for a while."""
    with scene.fault("link-one-way"):
        _machines(scene).lose_answers()
        await scene.sleep_a_while(1.0, 30.0)
        _machines(scene).heal()


@fault("link-delay", LINK, missing_delay)
async def link_delay(scene: Scene) -> None:
    """The other machine is far away, for a while."""
    with scene.fault("link-delay"):
        _machines(scene).delay(scene.random.randint(*DELAY_MS))
        await scene.sleep_a_while(1.0, 30.0)
        _machines(scene).heal()
