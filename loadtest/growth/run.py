"""The run: rigs up, filled, measured in turns; then surge and background work; then the tables."""

import asyncio
import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import uvloop

from engine.settings import project_root
from loadtest.growth.background import Idle, Rewrite, Upkeep, idle, rewrite, upkeep
from loadtest.growth.crowd import CallFailed
from loadtest.growth.fill import Memory, fill
from loadtest.growth.options import Options, RigPlan, parse
from loadtest.growth.page import render, render_page
from loadtest.growth.result import Place, Result, lines_by_events, lines_by_holds
from loadtest.growth.rig import Rig, open_rig
from loadtest.growth.surge import Surge, surge
from loadtest.growth.turn import Turn, take_turn
from loadtest.organizer import TargetError

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
SURGE_RIG_HOLDS_MAX = 100_000
"""The surge comes on top of so many other holds at most."""


def _say(text: str) -> None:
    sys.stderr.write(f"{datetime.now():%H:%M:%S}  {text}\n")
    sys.stderr.flush()


class Run:
    """One run of the benchmark."""

    def __init__(self, options: Options, command: str) -> None:
        self._options = options
        self._command = command
        self._began_s = time.monotonic()
        self._turns: dict[RigPlan, list[Turn]] = {plan: [] for plan in options.rigs}
        self._memory: list[Memory] = []
        self._idle: list[Idle] = []
        self._surge: Surge | None = None
        self._rewrite: Rewrite | None = None
        self._upkeep: Upkeep | None = None

    async def run(self, folder: Path) -> Result:
        """Everything. Raises TargetError where something does not come up."""
        async with contextlib.AsyncExitStack() as stack:
            rigs = []
            for number, plan in enumerate(self._options.rigs):
                _say(f"{plan.name}: starting stores, putting {plan.events:,} events on sale")
                rigs.append(await stack.enter_async_context(open_rig(plan, folder / f"rig-{number}")))
                memory = await fill(rigs[-1], _say)
                rigs[-1].relay.freeze()
                if plan.events == 1:
                    self._memory.append(memory)
            await self._take_turns(rigs)
            await self._look_at_the_rest(rigs)
        return self._result()

    async def _take_turns(self, rigs: list[Rig]) -> None:
        for number in range(1, self._options.rounds + 1):
            for rig in rigs:
                turn = await take_turn(rig, self._options.slice_entries)
                self._turns[rig.plan].append(turn)
                shown = ", ".join(f"{name} {cost:,.0f}" for name, cost in list(turn.costs.items())[:5])
                _say(f"round {number} of {self._options.rounds}, {rig.plan.name}: {shown} µs …")

    async def _look_at_the_rest(self, rigs: list[Rig]) -> None:
        options = self._options
        for rig in rigs:
            if rig.plan.holds == options.events_holds:
                _say(f"{rig.plan.name}: what the workers cost while nothing happens")
                self._idle += await idle(rig, options.pause_s)
        in_one_event = [rig for rig in rigs if rig.plan.events == 1]
        largest = in_one_event[-1]
        _say(f"{largest.plan.name}: checkpoint, vacuum, AOF rewrite")
        self._upkeep = await upkeep(largest)
        self._rewrite = await rewrite(largest, options.surge_rate_per_s, options.pause_s)
        if options.surge_holds:
            rig = [rig for rig in in_one_event if rig.plan.holds <= SURGE_RIG_HOLDS_MAX][-1]
            _say(f"{rig.plan.name}: a surge of {options.surge_holds:,} more")
            self._surge = await surge(rig, options, _say)

    def _result(self) -> Result:
        options = self._options
        return Result(
            place=Place(
                machine=_machine(),
                cores=os.cpu_count() or 0,
                date=f"{datetime.now(UTC):%Y-%m-%d}",
                commit=_commit(),
                command=self._command,
                rounds=options.rounds,
                slice_entries=options.slice_entries,
                seconds=time.monotonic() - self._began_s,
            ),
            by_holds=lines_by_holds(self._turns),
            by_events=lines_by_events(self._turns, options.events_holds),
            memory=self._memory,
            idle=self._idle,
            surge=self._surge,
            rewrite=self._rewrite,
            upkeep=self._upkeep,
        )


def _machine() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {platform.system()} {platform.release()}"
    return platform.platform()


def _commit() -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "describe", "--always", "--dirty"]
        done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True, check=True)  # noqa: S603
        return done.stdout.strip()
    return "unknown"


def write(result: Result, folder: Path, page: Path | None) -> list[Path]:
    """The JSON, the plot and, if wanted, the page with its own plot; what was written."""
    from loadtest.growth.plot import draw

    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "growth.json", folder / "growth.png"]
    written[0].write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))
    draw(result, written[1])
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        draw(result, page.with_suffix(".png"))
        page.write_text(render_page(result, page.with_suffix(".png").name), encoding="utf-8")
        written += [page, page.with_suffix(".png")]
    return written


async def _run(options: Options, command: str) -> Result:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with tempfile.TemporaryDirectory(prefix="rush-growth-", ignore_cleanup_errors=True) as folder:
        async with asyncio.timeout(options.time_max_s):
            return await Run(options, command).run(Path(folder))


def main(argv: list[str]) -> int:
    """The command; its exit status."""
    options = parse(argv)
    command = " ".join(["python -m loadtest.growth", *argv])
    try:
        result = uvloop.run(_run(options, command))
    except asyncio.CancelledError:
        _say("interrupted; everything is stopped")
        return EXIT_INTERRUPTED
    except TimeoutError:
        _say(f"not done after {options.time_max_s:,.0f} s: given up (--time-max)")
        return EXIT_FAILED
    except (TargetError, CallFailed, OSError) as error:
        _say(f"the growth benchmark failed: {error}")
        return EXIT_FAILED
    written = write(result, options.folder, options.page)
    sys.stdout.write(render(result) + "\n")
    _say("written: " + ", ".join(map(str, written)))
    return 0
