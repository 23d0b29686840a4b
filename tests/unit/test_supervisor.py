"""The supervisor, with tiny children instead of real ones."""

import asyncio
import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from rush import supervisor as module
from rush.console import Console
from rush.store import launched
from rush.supervisor import Child, StartError, Supervisor

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


def python(code: str) -> Callable[[], list[str]]:
    return lambda: launched([sys.executable, "-I", "-S", "-c", code])


async def until(claim: Callable[[], bool], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not claim():
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    return False


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
async def supervisor(output: io.StringIO) -> AsyncIterator[Supervisor]:
    made = Supervisor(Console(output))
    yield made
    await made.stop(list(made._running), is_hurry=None)


def child_pid(supervisor: Supervisor, name: str) -> int:
    pid = supervisor.pid(name)
    assert pid is not None
    return pid


async def test_a_child_that_is_killed_comes_back_and_a_word_says_so(
    supervisor: Supervisor, output: io.StringIO
) -> None:
    await supervisor.start(Child("one", python(SLEEP)))
    first = child_pid(supervisor, "one")
    os.kill(first, signal.SIGKILL)
    await until(lambda: supervisor.pid("one") not in (None, first))
    assert "one was killed by SIGKILL; starting it again in 0.2 s" in output.getvalue()
    await until(lambda: "one is back" in output.getvalue())


async def test_the_wait_between_restarts_grows(
    supervisor: Supervisor, output: io.StringIO, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    once_well = f"""
import os, time
if not os.path.exists({str(mark)!r}):
    open({str(mark)!r}, "w").close()
    time.sleep(0.3)
raise SystemExit(1)
"""
    await supervisor.start(Child("weak", python(once_well)))
    await until(lambda: "again in 0.8 s" in output.getvalue())
    assert "again in 0.2 s" in output.getvalue()
    assert "again in 0.4 s" in output.getvalue()


async def test_a_child_that_never_becomes_ready_is_given_up_with_its_last_words(
    supervisor: Supervisor,
) -> None:
    async def never() -> bool:
        return False

    with pytest.raises(StartError, match="broken ended with status 1: no such thing"):
        await supervisor.start(Child("broken", python("raise SystemExit('no such thing')"), is_ready=never))


async def test_a_command_that_cannot_be_made_says_why(supervisor: Supervisor) -> None:
    def refuse() -> list[str]:
        raise ValueError("no data folder")

    with pytest.raises(StartError, match="store cannot be started: no data folder"):
        await supervisor.start(Child("store", refuse))


async def test_every_line_stands_behind_the_name_of_who_said_it(
    supervisor: Supervisor, output: io.StringIO
) -> None:
    code = (
        "import sys, time; sys.stdout.write('first\\nsecond'); sys.stdout.flush(); "
        "sys.stderr.write('\\nthird \\x1b[2J\\xff\\n' + 'x' * 200000); sys.stderr.flush(); time.sleep(60)"
    )
    await supervisor.start(Child("talker", python(code)))
    await until(lambda: "third" in output.getvalue() and "xxx" in output.getvalue())
    lines = output.getvalue().splitlines()
    assert lines[:3] == ["talker     | first", "talker     | second", "talker     | third ÿ"]


async def test_a_deaf_child_is_killed_when_its_time_is_up(
    supervisor: Supervisor, output: io.StringIO
) -> None:
    await supervisor.start(Child("deaf", python(DEAF), stop_timeout_s=0.3))
    await until(lambda: "up" in output.getvalue())
    pid = child_pid(supervisor, "deaf")
    began = time.monotonic()
    await supervisor.stop(["deaf"])
    assert 0.25 < time.monotonic() - began < 3
    assert not is_alive(pid)
    assert "deaf does not stop: killing it" in output.getvalue()


async def test_in_a_hurry_nobody_waits_for_a_deaf_child(supervisor: Supervisor, output: io.StringIO) -> None:
    await supervisor.start(Child("deaf", python(DEAF), stop_timeout_s=30))
    await until(lambda: "up" in output.getvalue())
    hurry = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, hurry.set)
    async with asyncio.timeout(5):
        await supervisor.stop(["deaf"], is_hurry=hurry)


async def test_stopping_ends_a_child_that_waits_for_its_next_life(
    supervisor: Supervisor, output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST_S", 30.0)
    await supervisor.start(Child("one", python(SLEEP)))
    os.kill(child_pid(supervisor, "one"), signal.SIGKILL)
    await until(lambda: "again in 30.0 s" in output.getvalue())
    async with asyncio.timeout(3):
        await supervisor.stop(["one"])
    assert supervisor.pid("one") is None


async def test_children_go_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = f"""
import asyncio, sys
from rush.console import Console
from rush.store import launched
from rush.supervisor import Child, Supervisor

async def main():
    deaf = lambda: launched([sys.executable, "-I", "-S", "-c", {DEAF!r}])
    supervisor = Supervisor(Console())
    await supervisor.start(Child("a", deaf), Child("b", deaf))
    await asyncio.sleep(0.3)
    open({str(pids)!r}, "w").write(f"{{supervisor.pid('a')}} {{supervisor.pid('b')}}")
    await asyncio.sleep(60)

asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.DEVNULL
    )
    await until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    children = [int(text) for text in pids.read_text().split()]
    assert all(is_alive(pid) for pid in children)
    parent.kill()
    await parent.wait()
    await until(lambda: not any(is_alive(pid) for pid in children))
