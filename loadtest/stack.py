"""A complete Ticket Rush of our own, for a machine where none runs: `rush up` on a temporary folder."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from engine.settings import Settings, child_environment, load_running_settings, project_root
from loadtest.organizer import Target, TargetError

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 45.0
POLL_S = 0.1
LOG_TAIL_LINES = 15


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class OwnStack(NamedTuple):
    """A running stack of our own."""

    target: Target
    settings: Settings
    pid: int
    """Of `rush up`, whose children all the others are."""


@contextlib.asynccontextmanager
async def own_stack(log: Path, *words: str) -> AsyncIterator[OwnStack]:
    """A running stack, started with these options of `rush up`; everything of it is gone afterwards.

    Raises TargetError.
    """
    with tempfile.TemporaryDirectory(prefix="rush-load-", ignore_cleanup_errors=True) as folder:
        port = free_port()
        settings = Settings(
            env="development", redis_url="", database_url="", data_dir=folder, port=port, log_level="warning"
        )
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "rush", "up", "--port", str(port), "--no-demo", *words,
                cwd=project_root(),
                env=child_environment(settings),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )  # fmt: skip
        target = Target(f"http://127.0.0.1:{port}")
        try:
            await _until_ready(process, target, log)
            yield OwnStack(target, load_running_settings({"RUSH_DATA_DIR": folder}), process.pid)
        finally:
            await _stop(process)


def _tail(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]


async def _until_ready(process: asyncio.subprocess.Process, target: Target, log: Path) -> None:
    deadline_s = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while not await asyncio.to_thread(target.is_ready):
        if process.returncode is not None or asyncio.get_running_loop().time() > deadline_s:
            raise TargetError("our own stack did not come up:\n" + "\n".join(_tail(log)))
        await asyncio.sleep(POLL_S)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(asyncio.shield(process.wait()), STOP_TIMEOUT_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
