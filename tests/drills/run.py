"""One run: a new event, load on it, something that goes wrong, a quiet time, then the checker.

    async def strike(scene: Scene) -> None:
        with scene.fault("relay-kill", "relay-1"):          # may_lose=True: un-durable holds may go with it
            scene.stack.members["relay-1"].kill()
        scene.stack.members["relay-1"].start()

    result = await drill(stack, folder, seed=17, scenario="relay-kill", strike=strike)
    assert not result.violations, result.violations

`strike` returns when everything that it broke has been mended (whatever it forgot, `Stack.heal` mends); the
load goes on until the system has recovered, which is measured from there. `folder` is new for each run and
holds its history afterwards. What a scene decides, it decides by `scene.random`, which follows the seed.
"""

import asyncio
import contextlib
import random
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec

from engine.settings import project_root
from tests.drills.clients import CLIENTS_COUNT, Load
from tests.drills.history import Event, Fault, Run, write_run
from tests.drills.organizer import Organizer
from tests.drills.outage import Outage, outage
from tests.drills.queue_crowd import QueueCrowd
from tests.drills.queue_draws import Draws
from tests.drills.quiet import Look, NotQuiet
from tests.drills.sometimes import seen_in
from tests.drills.stack import Stack
from tests.drills.verdict import verdict
from tests.drills.watch import Watch

WARM_UP_S = 0.6
CALM_S = 0.5
"""How long is sold before the fault and when all is well again."""
RECOVERED_MAX_S = 10.0
"""What recovery may take after the last fault."""
PATIENCE_S = 60.0
"""A machine that others use too may take so long: only then is it a violation."""

Strike = Callable[["Scene"], Awaitable[None]]


class Scene:
    """What a strike has in its hands."""

    def __init__(
        self, stack: Stack, event: Event, load: Load, run: Run, pause_max_s: float, queue_event: str
    ) -> None:
        self.stack = stack
        self.event = event
        self.queue_event = queue_event
        """The one with a waiting room."""
        self.load = load
        self.run = run
        self.pause_max_s = pause_max_s
        self.random = random.Random(f"{run.seed} {run.scenario}")

    def own(self, name: str) -> "Scene":
        """The same scene for one of several strikes: each follows the seed in its own way."""
        scene = Scene(self.stack, self.event, self.load, self.run, self.pause_max_s, self.queue_event)
        scene.random = random.Random(f"{self.run.seed} {name}")
        return scene

    @contextlib.contextmanager
    def fault(self, kind: str, what: str = "", *, may_lose: bool = False) -> Iterator[None]:
        """Write down that something is broken, from here to the end of the block."""
        fault = Fault(kind, time.monotonic_ns(), 0, may_lose, what)
        self.run.faults.append(fault)
        try:
            yield
        finally:
            fault.end_ns = time.monotonic_ns()

    def a_while(self, at_least_s: float = 1.0, at_most_s: float = 30.0) -> float:
        """A time that is mostly short and sometimes long."""
        at_most_s = max(at_least_s, min(at_most_s, self.pause_max_s))
        return at_least_s * (at_most_s / at_least_s) ** self.random.random()

    async def sleep_a_while(self, at_least_s: float = 1.0, at_most_s: float = 30.0) -> None:
        """Let that time pass."""
        await asyncio.sleep(self.a_while(at_least_s, at_most_s))

    async def sleep(self, low_s: float, high_s: float) -> None:
        """Some time in between."""
        await asyncio.sleep(self.random.uniform(low_s, high_s))


class Result(msgspec.Struct):
    """What became of a run."""

    scenario: str
    seed: int
    folder: str
    faults: list[str]
    violations: list[str]
    recovered_s: float
    """From the last fault's end until nothing was wrong any more."""
    outage: Outage
    operations: int
    seen: Counter[str]
    wall_s: float


def commit() -> str:
    """The commit that is drilled; empty where there is no git."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=project_root(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()
    return ""


async def drill(
    stack: Stack,
    folder: Path,
    *,
    seed: int,
    scenario: str,
    strike: Strike,
    pause_max_s: float = 12.0,
    clients: int = CLIENTS_COUNT,
) -> Result:
    """See the module."""
    began_s = time.monotonic()
    folder.mkdir(parents=True)  # noqa: ASYNC240 - one call, on a local disk
    organizer = Organizer(stack)
    event = await organizer.put_on_sale(seed)
    run = Run(seed, scenario, [event], commit=commit(), began_ns=time.monotonic_ns())
    watch, load = Watch(stack, event, folder), Load(stack, event, folder, seed, clients)
    crowd, draws = QueueCrowd(stack, folder, seed), Draws(stack, seed)
    violations: list[str] = []
    recovered_s = 0.0
    look, alarms = Look(stack, event), len(stack.alarms())
    try:
        await crowd.start(organizer)
        draws.start()
        load.start()
        await asyncio.sleep(WARM_UP_S)
        try:
            await strike(Scene(stack, event, load, run, pause_max_s, crowd.facts.event))
        except Exception as error:
            violations.append(f"the fault itself went wrong: {error!r}")
        violations += stack.deserted()
        try:
            await stack.heal()
            healed_ns = time.monotonic_ns()
            recovered_s = await look.recovered(lambda: _silent_gateway(stack, load, healed_ns), PATIENCE_S)
            await asyncio.sleep(CALM_S)
            await asyncio.gather(load.stop(), crowd.stop(), draws.stop())
            run.quiet_ns = time.monotonic_ns()
            await look.drained(PATIENCE_S)
        except NotQuiet as error:
            violations.append(f"it did not recover in {PATIENCE_S:.0f} s: {error}")
        except AssertionError as error:
            violations.append(f"a store does not come back: {error}")
        violations += stack.deserted()
    finally:
        await load.close()
        await crowd.close()
        await draws.close()
        await watch.close()
        write_run(folder, run)
        organizer.close()
    if not violations:
        report = await verdict(folder, stack)
        violations += [] if report.is_clean else list(report.lines())
        load.seen.update({f"checked: {name}": count for name, count in report.counts.items()})
    violations += stack.alarms()[alarms:]
    if load.seen["server errors"]:
        violations.append(f"{load.seen['server errors']} answers were 5xx other than 503")
    load.seen.update(seen_in(folder, run))
    load.seen.update(crowd.seen + draws.seen)
    violations += [f"draws: {problem}" for problem in draws.problems]
    if not violations:
        await organizer.end_sale(event.id)
        await organizer.end_sale(crowd.facts.event)
        organizer.close()
    return Result(
        scenario=scenario,
        seed=seed,
        folder=str(folder),
        faults=[f"{fault.kind} {fault.what}".strip() for fault in run.faults],
        violations=violations,
        recovered_s=recovered_s,
        outage=outage(folder, run),
        operations=sum(count for name, count in load.seen.items() if name.rpartition(" ")[2].isdecimal()),
        seen=load.seen,
        wall_s=time.monotonic() - began_s,
    )


def _silent_gateway(stack: Stack, load: Load, since_ns: int) -> str | None:
    """A gateway that has sold nothing since then."""
    load.check()
    for member in stack.gateways:
        if load.good_at_ns.get(member.name, 0) < since_ns:
            return f"{member.name} has answered no reservation since everything was mended"
    return None
