"""The Locust processes of a run, and following what they write."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from engine.settings import project_root
from loadtest.plan import Plan
from loadtest.stack import free_port
from loadtest.tally import Tally
from loadtest.told import ToldReader, told_path

STOP_FILE = "stop"
"""Asks the clients for an orderly end; see loadtest/locustfile.py."""
LAST_ANSWERS_S = 30.0
EXIT_TIMEOUT_S = 15.0
POLL_S = 0.25


class Clients:
    """Started by `start`, followed by `follow`; `close` leaves nobody behind."""

    def __init__(self, plan: Plan, folder: Path, *, web_port: int | None = None) -> None:
        self._plan = plan
        self._folder = folder
        self._web_port = web_port
        self._readers = [ToldReader(told_path(folder, number)) for number in range(plan.processes)]
        self._process: asyncio.subprocess.Process | None = None

    def _command(self, plan_path: Path) -> list[str]:
        command = [
            sys.executable, "-m", "locust",
            "--locustfile", str(Path(__file__).with_name("locustfile.py")),
            "--plan", str(plan_path),
            "--loglevel", "WARNING",
            "--html", str(self._folder / "locust.html"),
            "--csv", str(self._folder / "locust"),
            "--exit-code-on-error", "0",
        ]  # fmt: skip
        if self._plan.processes > 1:
            port = str(free_port())
            command += ["--processes", str(self._plan.processes), "--master-bind-host", "127.0.0.1"]
            command += ["--master-bind-port", port, "--master-port", port]
        if self._web_port is None:
            return [*command, "--headless", "--only-summary"]
        return [*command, "--autostart", "--web-host", "127.0.0.1", "--web-port", str(self._web_port)]

    async def start(self, environment: dict[str, str]) -> None:
        """Start Locust, which starts its own workers."""
        plan_path = self._folder / "plan.json"
        self._plan.save(plan_path)
        with (self._folder / "locust.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(plan_path),
                cwd=project_root(),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Out of the terminal's process group: Ctrl-C is for the parent, which ends it in order.
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether Locust lives."""
        return self._process is not None and self._process.returncode is None

    def read(self, tally: Tally) -> None:
        """Count what was written since."""
        for reader in self._readers:
            for line in reader.read():
                tally.take(line)

    def ask_to_stop(self) -> None:
        """Nobody begins anything new; who is under way may finish."""
        (self._folder / STOP_FILE).touch()

    async def drain(self, tally: Tally) -> None:
        """After `ask_to_stop`: until the last lines are written, a bounded time."""
        deadline_s = time.monotonic() + LAST_ANSWERS_S
        while self.is_running and not tally.is_complete and time.monotonic() < deadline_s:
            await asyncio.sleep(POLL_S)
            self.read(tally)

    async def close(self) -> None:
        """End Locust; it writes its report first."""
        # Without a page of its own it ends by itself, and writes its report.
        for number in (None if self._web_port is None else signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self._process is None or await self._ends(self._process, number):
                break
        for reader in self._readers:
            reader.close()
        # The secret is in it.
        (self._folder / "plan.json").unlink(missing_ok=True)

    async def _ends(self, process: asyncio.subprocess.Process, number: signal.Signals | None) -> bool:
        if number is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), EXIT_TIMEOUT_S)
        return process.returncode is not None
