"""Keeps processes running: starts them, passes their lines on, starts again what dies, stops all in order."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from rush.console import Console
from rush.launch import EXIT_CANNOT_START

READY_TIMEOUT_S = 60.0
READY_POLL_S = 0.05
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 10.0
HEALTHY_AFTER_S = 10.0
"""Who lived as long as this died of something new: the backoff starts over."""
EARLY_DEATHS_MAX = 3
"""Who dies so often before it was ready once will never be."""
OUTPUT_GRACE_S = 0.3
KILL_WAIT_S = 5.0
_CHUNK_BYTES = 65_536
_LINE_BYTES_MAX = 65_536
_CANNOT = "cannot be started"


class StartError(Exception):
    """A child did not come up; the message says which and what it printed last."""


@dataclass(frozen=True)
class Child:
    """A process to keep running."""

    name: str
    command: Callable[[], list[str]]
    """Called before each start; it may prepare things, and runs in a thread."""
    environment: dict[str, str] | None = None
    stop_signal: str = "SIGTERM"
    stop_timeout_s: float = 10.0
    is_ready: Callable[[], Awaitable[bool]] | None = None
    """Asked until it says yes, after each start; without one a process is ready when it runs."""
    tidy: Callable[[str], str | None] | None = None
    """Makes a line of its output readable, or None of one that is to be dropped."""
    died: Callable[[int], None] | None = None
    """Told the process id after each death."""


@dataclass
class _Running:
    child: Child
    keeper: asyncio.Task[None] = field(init=False)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None
    is_stopping: bool = False
    last_line: str = ""


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


class Supervisor:
    """Starts children one after the other; stops them in the order given to `stop`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: dict[str, _Running] = {}

    def _say(self, text: str) -> None:
        self._console.line("rush", text)

    def pid(self, name: str) -> int | None:
        """The process id of a child, None while it is down."""
        process = self._running[name].process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self, *children: Child) -> None:
        """Start these together and wait until all are ready; raises StartError for the first that is not."""
        started = []
        for child in children:
            entry = _Running(child)
            entry.keeper = asyncio.create_task(self._keep(entry), name=f"keep {child.name}")
            self._running[child.name] = entry
            started.append(entry)
        for entry in started:
            await self._wait_first_ready(entry)

    async def _wait_first_ready(self, entry: _Running) -> None:
        waiter = asyncio.create_task(entry.ready.wait())
        try:
            await asyncio.wait(
                {waiter, entry.keeper}, timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if entry.keeper.done():
                entry.keeper.result()  # raises why it gave up
            if not entry.ready.is_set():
                raise StartError(f"{entry.child.name} did not become ready in {READY_TIMEOUT_S:.0f} s")
        finally:
            waiter.cancel()

    async def _keep(self, entry: _Running) -> None:
        deaths = 0
        backoff_s = BACKOFF_FIRST_S
        while not entry.is_stopping:
            began_s = time.monotonic()
            why = await self._run_once(entry)
            if entry.is_stopping:
                return
            if not entry.ready.is_set():
                deaths += 1
                if deaths >= EARLY_DEATHS_MAX or why == _CANNOT:
                    raise StartError(
                        f"{entry.child.name} {why}" + (f": {entry.last_line}" if entry.last_line else "")
                    )
            if time.monotonic() - began_s > HEALTHY_AFTER_S:
                backoff_s = BACKOFF_FIRST_S
            self._say(f"{entry.child.name} {why}; starting it again in {backoff_s:.1f} s")
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)

    async def _run_once(self, entry: _Running) -> str:
        """Run the child until it dies; how it died, in words."""
        child = entry.child
        try:
            command = await asyncio.to_thread(child.command)
        except Exception as error:
            self._pass_on(entry, str(error).encode())
            return _CANNOT
        if entry.is_stopping:
            return "was not started"
        reading, writing = os.pipe()
        try:
            entry.process = process = await asyncio.create_subprocess_exec(
                *command,
                env=child.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                # Out of the terminal's process group: Ctrl-C reaches us alone, and we stop all in order.
                start_new_session=True,
            )
        except OSError as error:
            os.close(reading)
            self._pass_on(entry, str(error).encode())
            return _CANNOT
        finally:
            os.close(writing)
        if entry.is_stopping:
            self._signal(entry, child.stop_signal)
        copier = asyncio.create_task(self._copy_output(entry, reading))
        watcher = asyncio.create_task(self._watch_ready(entry))
        try:
            status = await process.wait()
            # A grandchild may hold the pipe open for longer than anybody wants to wait.
            await asyncio.wait({copier}, timeout=OUTPUT_GRACE_S)
        finally:
            copier.cancel()
            watcher.cancel()
            await asyncio.gather(copier, watcher, return_exceptions=True)
        if child.died is not None:
            child.died(process.pid)
        return _CANNOT if status == EXIT_CANNOT_START else describe_exit(status)

    async def _watch_ready(self, entry: _Running) -> None:
        if entry.child.is_ready is not None:
            while not await entry.child.is_ready():  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(READY_POLL_S)
        if entry.ready.is_set():
            self._say(f"{entry.child.name} is back")
        entry.ready.set()

    async def _copy_output(self, entry: _Running, reading: int) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
        )
        rest = b""
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _LINE_BYTES_MAX:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._pass_on(entry, line)
        finally:
            self._pass_on(entry, rest)
            transport.close()

    def _pass_on(self, entry: _Running, raw: bytes) -> None:
        text: str | None = raw.decode("utf-8", "replace").rstrip()
        if text and entry.child.tidy is not None:
            text = entry.child.tidy(text)
        if text:
            entry.last_line = text
            self._console.line(entry.child.name, text)

    def _signal(self, entry: _Running, name: str) -> None:
        process = entry.process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.Signals[name])

    async def stop(self, names: Sequence[str], *, is_hurry: asyncio.Event | None = None) -> None:
        """Stop these children together and wait; kill -9 who is not gone in time, or at once in a hurry."""
        entries = [self._running[name] for name in names if name in self._running]
        await asyncio.gather(*(self._stop_one(entry, is_hurry) for entry in entries))

    async def _stop_one(self, entry: _Running, is_hurry: asyncio.Event | None) -> None:
        entry.is_stopping = True
        if entry.process is None or entry.process.returncode is not None:
            # Between two lives: it waits for its backoff, or for its command.
            entry.keeper.cancel()
        else:
            self._signal(entry, entry.child.stop_signal)
        hurry = asyncio.create_task(is_hurry.wait()) if is_hurry else None
        await asyncio.wait(
            {entry.keeper, *([hurry] if hurry else [])},
            timeout=entry.child.stop_timeout_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if hurry:
            hurry.cancel()
        if not entry.keeper.done():
            self._say(f"{entry.child.name} does not stop: killing it")
            self._signal(entry, "SIGKILL")
            await asyncio.wait({entry.keeper}, timeout=KILL_WAIT_S)
        entry.keeper.cancel()
        await asyncio.gather(entry.keeper, return_exceptions=True)
