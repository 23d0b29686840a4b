"""`make drills`: break everything, lose nothing.

make drills                                       every fault once, some minutes
make drills SEEDS=200                             a release: a run of a dozen faults for each seed, hours
make drills ARGS="--seed 17 --fault redis-kill"   one run again; --fault as often as wanted
"""

import argparse
import asyncio
import contextlib
import os
import platform
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import uvloop

from tests.drills.clients import CLIENTS_COUNT
from tests.drills.fault_clocks import ClockedRedis
from tests.drills.faults import all_faults
from tests.drills.machines import TwoMachines
from tests.drills.page import Drill, lines, write_page
from tests.drills.plan import (
    DEATHS_MIN,
    Planned,
    UnknownFault,
    long_plan,
    short_plan,
    strike_of,
    takes_two_machines,
)
from tests.drills.run import RECOVERED_MAX_S, Result, commit, drill
from tests.drills.sometimes import counted
from tests.drills.stack import Stack, open_stack, remove

RUNS_PER_STACK = 20
"""Then a new one: a drill of hours shall not be one of a single data folder."""
SHORT_PAUSE_MAX_S, LONG_PAUSE_MAX_S = 8.0, 30.0
DEATHS_MORE = "redis-storm"
"""What is done more often until there were enough deaths."""
RESULTS = Path(__file__).parent / "results"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.drills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1, help="what everything follows (1)")
    parser.add_argument("--seeds", type=int, metavar="N", help="the long drill, for the seeds 1 to N")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME", help="a run of this: NAME, A+B, or A,B+C,D"
    )
    parser.add_argument("--times", type=int, default=1, help="do each --fault with so many seeds (1)")
    parser.add_argument("--list", action="store_true", help="name all faults, and end")
    parser.add_argument("--clients", type=int, default=CLIENTS_COUNT, help=f"at once ({CLIENTS_COUNT})")
    parser.add_argument("--pause-max-s", type=float, help="the longest that anything is away (8; long: 30)")
    parser.add_argument("--keep", action="store_true", help="keep histories, logs and data of every run")
    parser.add_argument("--page", action="store_true", help=f"write the tables into {RESULTS.name}/")
    return parser


class Runner:
    """Does one run after the other, and keeps what is worth keeping."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self._arguments = arguments
        self._folder = folder
        self._is_long = arguments.seeds is not None
        self._pause_max_s = arguments.pause_max_s or (
            LONG_PAUSE_MAX_S if self._is_long else SHORT_PAUSE_MAX_S
        )
        self._began_s = time.monotonic()
        self._stacks = 0
        self.results: list[Result] = []
        self.sometimes: Counter[str] = Counter()
        self.redis_deaths = 0

    def plan(self) -> list[Planned]:
        """What is to be done; raises UnknownFault."""
        first = self._arguments.seed
        if self._arguments.fault:
            seeds = range(first, first + self._arguments.times)
            plan = [Planned(seed, scenario) for seed in seeds for scenario in self._arguments.fault]
        elif self._is_long:
            plan = long_plan(range(1, self._arguments.seeds + 1))
        else:
            plan = short_plan(first)
        for planned in plan:
            strike_of(planned.scenario)
        return plan

    @property
    def is_short(self) -> bool:
        """Whether it is the drill of every fault."""
        return not self._is_long and not self._arguments.fault

    async def run(self, plan: Sequence[Planned]) -> None:
        """All of it; what was done stands in the attributes, also when it is interrupted."""
        rest = list(plan)
        while rest:
            rest = await self._on_a_stack(rest, len(plan))
            if not rest and self.is_short and self.redis_deaths < DEATHS_MIN:
                seed = self._arguments.seed + len(self.results)
                rest = [Planned(seed, DEATHS_MORE)]

    async def _on_a_stack(self, plan: list[Planned], count: int) -> list[Planned]:
        """Some runs on one stack: until there were enough, or one is violated. The rest."""
        self._stacks += 1
        folder = self._folder / f"stack-{self._stacks}"
        seen: Counter[str] = Counter()
        is_clean = True
        is_on_two = takes_two_machines(plan[0].scenario)
        together = list(takewhile(lambda each: takes_two_machines(each.scenario) == is_on_two, plan))
        kind: dict[str, Any] = {"kind": TwoMachines} if is_on_two else {"make_redis": ClockedRedis}
        async with open_stack(folder / "stack", **kind) as stack:
            try:
                for number, planned in enumerate(together[:RUNS_PER_STACK], 1):  # noqa: B007 - used behind it
                    deaths = stack.redis_deaths
                    result = await self._do(stack, folder, planned, count)
                    self.redis_deaths += stack.redis_deaths - deaths
                    seen += result.seen
                    if result.violations:
                        is_clean = False
                        break
                    if not self._arguments.keep:
                        remove(Path(result.folder))
            finally:
                self.sometimes.update(counted(stack, seen))
        if is_clean and not self._arguments.keep:
            remove(folder)
        return plan[number:]

    async def _do(self, stack: Stack, folder: Path, planned: Planned, count: int) -> Result:
        number = len(self.results) + 1
        name = planned.scenario if len(planned.scenario) < 60 else f"{planned.scenario[:57]}..."
        result = await drill(
            stack,
            folder / f"run-{number}",
            seed=planned.seed,
            scenario=planned.scenario,
            strike=strike_of(planned.scenario),
            pause_max_s=self._pause_max_s,
            clients=self._arguments.clients,
        )
        self.results.append(result)
        gone_s = time.monotonic() - self._began_s
        _say(
            f"[{number:3}/{max(count, number)} {gone_s:5.0f} s] {name:40} seed {planned.seed}: "
            f"{result.operations} operations, nobody could reserve for {result.outage.gap_s:.1f} s, "
            f"recovered in {result.recovered_s:.1f} s"
            + (f" (more than {RECOVERED_MAX_S:.0f} s)" if result.recovered_s > RECOVERED_MAX_S else "")
            + ("" if not result.violations else "  VIOLATED")
        )
        if result.violations:
            for violation in result.violations:
                _say(f"    {violation}")
            _say(f"    history: {result.folder}; logs and data: {stack.folder}")
            _say(f'    again: make drills ARGS="--seed {planned.seed} --fault {planned.scenario}"')
        return result

    def summary(self) -> Drill:
        """What there is to tell."""
        seeds = sorted({result.seed for result in self.results})
        return Drill(
            date=datetime.now(UTC).isoformat(timespec="seconds").removesuffix("+00:00"),
            commit=commit(),
            machine=f"{os.cpu_count()} cores ({platform.system()} {platform.machine()}), shared",
            seeds=f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else str(*seeds),
            wall_s=time.monotonic() - self._began_s,
            redis_deaths=self.redis_deaths,
            results=self.results,
            sometimes=self.sometimes,
        )


def _say(text: str) -> None:
    print(text, flush=True)


async def _main(runner: Runner, plan: Sequence[Planned]) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await runner.run(plan)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the drill; 1 where something was violated or never happened, 130 when it was interrupted."""
    arguments = _parser().parse_args(argv)
    skipped = {name: missing for name, fault in all_faults().items() if (missing := fault.missing())}
    if arguments.list:
        for name, fault in sorted(all_faults().items()):
            _say(f"{name:28} {fault.target:20} {skipped.get(name, '')}".rstrip())
        return 0
    folder = Path(tempfile.mkdtemp(prefix="rush-drills-"))
    folder.chmod(0o711)
    runner = Runner(arguments, folder)
    try:
        plan = runner.plan()
    except UnknownFault as error:
        _say(str(error))
        return 2
    _say(f"{len(plan)} runs, seed {arguments.seed}, commit {commit() or 'unknown'}")
    for name, missing in skipped.items():
        _say(f"skipped: {name}, for {missing}")
    is_interrupted = False
    try:
        uvloop.run(_main(runner, plan))
    except (asyncio.CancelledError, KeyboardInterrupt):
        is_interrupted = True
        _say("interrupted; everything that was started is gone")
    if runner.results:
        summary = runner.summary()
        _say("")
        for line in lines(summary):
            _say(line)
        if arguments.page:
            _say(f"written: {write_page(summary, RESULTS)}")
    never = [name for name, count in runner.sometimes.items() if not count] if runner.is_short else []
    is_violated = any(result.violations for result in runner.results)
    if is_violated or arguments.keep:
        _say(f"kept: {folder}")
    else:
        remove(folder)
    if is_interrupted:
        return 130
    if never:
        _say(f"never happened: {', '.join(never)}")
    _say("VIOLATED" if is_violated else "CLEAN")
    return 1 if is_violated or never else 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
