"""Gateways and workers as real processes, to be killed, frozen and woken.

Run as a script it is one of them: `processes.py gateway`, or `processes.py work NAME…`.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0


class Process:
    """One of our processes; its output is in a file."""

    def __init__(self, settings: Any, log: Path, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RUSH_")}
        for name in settings.__struct_fields__:
            environment["RUSH_" + name.upper()] = str(getattr(settings, name))
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), *arguments],
                cwd=ROOT,
                env=environment | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def log(self) -> str:
        """What it printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def code(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still lives."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def said(self, text: str) -> str:
        """The first line with this text, once it is printed."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                for line in self.log.splitlines():
                    if text in line:
                        return line
                assert self.code is None, self.log
                await asyncio.sleep(0.02)

    async def ended(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait for the end; the exit status."""
        return await asyncio.to_thread(self._process.wait, timeout_s)

    @property
    def is_frozen(self) -> bool:
        """Whether a SIGSTOP has reached it."""
        return Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def kill(self) -> None:
        """kill -9, and wait."""
        self.signal(signal.SIGKILL)
        self._process.wait()


class Processes:
    """Those that one test starts; all are killed with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all: list[Process] = []

    def work(self, settings: Any, *names: str) -> Process:
        """Workers."""
        return self._start(settings, "work", *names)

    def work_until(
        self, failpoint: str, number: int, settings: Any, *names: str, freeze: bool = False
    ) -> Process:
        """Workers that die, or freeze, when they come to that fail point for the number-th time."""
        blow = "stop" if freeze else "kill"
        file = self._folder / f"struck-{len(self._all)}"
        return self.work(
            msgspec.structs.replace(settings, failpoint=f"{failpoint}:{number}:{blow}:{file}"), *names
        )

    async def gateway(self, settings: Any) -> tuple[Process, int]:
        """A gateway on a port of its own, listening."""
        process = self._start(settings, "gateway")
        return process, int((await process.said("listening on")).split()[-1])

    def _start(self, settings: Any, *arguments: str) -> Process:
        log = self._folder / f"process-{len(self._all)}.log"
        process = Process(settings, log, *arguments)
        self._all.append(process)
        return process

    def close(self) -> None:
        """Kill what is left."""
        for process in self._all:
            process.kill()


# What follows runs in the process itself.


def main() -> None:
    """Be one of the processes."""
    from engine.settings import load_settings

    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("gateway", "work"))
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    settings = load_settings()
    if options.role == "gateway":
        from gateway.server import run

        run(settings, port=0, ready=lambda port: sys.stdout.write(f"listening on {port}\n") and _flush())
        return
    from workers.runner import run as run_workers

    run_workers(settings, options.names)


def _flush() -> None:
    sys.stdout.flush()


def processes_in(folder: Path) -> Iterator[Processes]:
    """For a fixture."""
    processes = Processes(folder)
    try:
        yield processes
    finally:
        processes.close()


if __name__ == "__main__":
    main()
