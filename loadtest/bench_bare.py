"""The bare ASGI answer that the gateway's cost is a multiple of."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from engine.settings import project_root
from loadtest.bench_cpu import cpu
from loadtest.bench_phase import Seen
from loadtest.organizer import Target, TargetError
from loadtest.stack import free_port

START_TIMEOUT_S = 20.0
POLL_S = 0.05


class Bare(msgspec.Struct, frozen=True):
    """One phase against the bare server."""

    seen: Seen
    cpu_us: float
    """Of the server, for each answer."""


class BareServer(msgspec.Struct, frozen=True):
    """It runs."""

    port: int
    pid: int

    def cpu_us(self, before_s: float, answers: int) -> float:
        """Processor time for each answer since the process had used `before_s`."""
        return round(1e6 * (cpu(self.pid).all - before_s) / max(1, answers), 2)


@contextlib.asynccontextmanager
async def bare_server(
    folder: Path, environment: dict[str, str], status: int, headers: list[tuple[str, str]], body: bytes
) -> AsyncIterator[BareServer]:
    """A process of its own that gives this answer; raises TargetError when it does not start."""
    answer = folder / "bare_answer.json"
    answer.write_bytes(msgspec.json.encode({"status": status, "headers": headers, "body": body.decode()}))
    port = free_port()
    with (folder / "bare.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rush", "bare", "--port", str(port), "--answer", str(answer),
            cwd=project_root(), env=environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        target = Target(f"http://127.0.0.1:{port}")
        deadline_s = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while not await asyncio.to_thread(_answers, target):
            if process.returncode is not None or asyncio.get_running_loop().time() > deadline_s:
                raise TargetError(f"the bare server did not come up: see {folder / 'bare.log'}")
            await asyncio.sleep(POLL_S)
        yield BareServer(port, process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), START_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def _answers(target: Target) -> bool:
    try:
        status, _ = target.call("POST", "/", {})
    except OSError:
        return False
    return status > 0
