"""One process of the installation that is drilled, a gateway or a worker, as production starts it."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from engine.settings import Settings, child_environment
from rush.store import launched

STOP_TIMEOUT_S = 20.0


class Member:
    """`rush serve` or `rush work NAME`: started, killed, frozen, woken. It ends with this process.

    `source` is the folder whose code it runs; it sees the settings and nothing else of our environment's.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        settings: Settings,
        folder: Path,
        *,
        source: Path,
        metrics: Path,
        placed: Callable[[list[str]], list[str]],
    ) -> None:
        self.name = name
        self.settings = settings
        self.port = settings.port
        """Where a gateway listens."""
        self.log_path = folder / f"{name}.log"
        self.starts = 0
        self.is_wanted = False
        """Whether it should be running now; who is not there all the same died of something of its own."""
        self.extra: dict[str, str] = {}
        """More environment for its next start: a clock of its own, a place where to die."""
        self._arguments = arguments
        self._source = source
        self._metrics = metrics
        self._placed = placed
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process lives (a frozen one does)."""
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int | None:
        """The exit status of its last life, negative for a signal."""
        return None if self._process is None else self._process.poll()

    def run_from(self, source: Path) -> None:
        """Its next start is from that copy of the code."""
        self._source = source

    def start(self) -> None:
        """Start it, unless it runs. It is not ready yet when this returns."""
        if self.is_running:
            return
        # The kernel ends a process with the *thread* that started it, and other threads are short-lived.
        assert threading.current_thread() is threading.main_thread(), "start processes from the main thread"
        environment = child_environment(self.settings) | {
            "PROMETHEUS_MULTIPROC_DIR": str(self._metrics),
            "PYTHONPATH": str(self._source),
        }
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._placed(launched([sys.executable, "-m", "rush", *self._arguments])),
                cwd=self._source,
                env=environment | self.extra,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.starts += 1
        self.is_wanted = True

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self.is_wanted = False
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def wait_killed(self) -> None:
        """Wait for the end of a process that has killed itself."""
        self.is_wanted = False
        if self._process is not None:
            self._process.wait()

    def pause(self) -> None:
        """Freeze it: connections and locks stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Wake it."""
        self._signal(signal.SIGCONT)

    async def stop(self) -> None:
        """End it in order; kill it if that takes too long."""
        self.is_wanted = False
        self.resume()
        self._signal(signal.SIGTERM)
        if self._process is not None:
            try:
                await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()

    @property
    def log(self) -> str:
        """What it printed in all its lives."""
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_text(encoding="utf-8", errors="replace")
        return ""
