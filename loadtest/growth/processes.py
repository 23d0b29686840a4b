"""The processes of a rig, and what they cost: CPU time from the kernel's own accounting."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from engine.settings import RUNNING_FILE, Settings, child_environment, load_running_settings, project_root
from loadtest.organizer import TargetError

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 45.0
POLL_S = 0.05
LOG_TAIL_LINES = 15


def cpu_us(pid: int) -> float:
    """CPU microseconds of all living threads of a process so far; 0 for one that is gone.

    The first number of /proc/<pid>/task/<tid>/schedstat, in nanoseconds (sched-stats of the kernel's docs).
    """
    total_ns = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total_ns += int(path.read_text(encoding="ascii").split()[0])
    return total_ns / 1000


def cpu_of(pids: Iterable[int]) -> float:
    """The same, of several processes together."""
    return sum(cpu_us(pid) for pid in pids)


class Process:
    """One child process; its output goes to a file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def require_alive(self) -> None:
        """Raise TargetError, with the end of its log, if it is dead."""
        if self._process.returncode is not None:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise TargetError(f"{self.name} has ended:\n" + "\n".join(lines[-LOG_TAIL_LINES:]))

    def freeze(self) -> None:
        """Let it do nothing until it is thawed."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self) -> None:
        """End it in order, or else by force."""
        self.thaw()
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.shield(self._process.wait()), STOP_TIMEOUT_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await self._process.wait()


async def start(name: str, arguments: list[str], settings: Settings | None, log: Path) -> Process:
    """Start `python -m …` in a session of its own: Ctrl-C reaches the benchmark alone, which ends all."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments,
            cwd=project_root(),
            env=None if settings is None else child_environment(settings),
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )  # fmt: skip
    return Process(name, process, log)


async def start_stores(folder: Path) -> tuple[Process, Settings]:
    """A Redis and a Postgres of their own, migrated, and the settings that lead to them."""
    process = await start(
        "the stores", ["rush.stores_alone", str(folder)], None, folder.with_suffix(".stores.log")
    )
    running = folder / RUNNING_FILE
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not running.exists():
                process.require_alive()
                await asyncio.sleep(POLL_S)
    except BaseException as error:
        await process.stop()
        if isinstance(error, TimeoutError):
            raise TargetError(f"the stores in {folder} did not come up") from None
        raise
    return process, load_running_settings({"RUSH_DATA_DIR": str(folder)})
