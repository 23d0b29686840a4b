"""`rush fence`, `rush unfence`, `rush rebuild`: what an operator does by hand, on a terminal."""

import asyncio
import sys
import time

from engine import failpoints
from engine.operating import Operator, OperatorError, operate
from engine.settings import load_running_settings
from engine.stores import open_stores

SAY_INTERVAL_S = 1.0
INTERRUPTED = 130


class Progress:
    """One line that is written over on a terminal, and a line now and then elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._said_at_s = time.monotonic()
        self._is_line_open = False

    def __call__(self, text: str) -> None:
        if self._is_terminal:
            sys.stderr.write(f"\r\x1b[K… {text}")
            sys.stderr.flush()
            self._is_line_open = True
        elif time.monotonic() - self._said_at_s >= SAY_INTERVAL_S:
            self._said_at_s = time.monotonic()
            sys.stderr.write(f"… {text}\n")

    def end(self) -> None:
        """What comes next begins a line."""
        if self._is_line_open:
            sys.stderr.write("\r\x1b[K")
            self._is_line_open = False


def _is_meant(what: str) -> bool:
    """Ask the person; raises OperatorError where there is none."""
    if not sys.stdin.isatty():
        raise OperatorError(f"{what} Say that you mean it: --yes")
    sys.stderr.write(f"{what} Go on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def _fence(operator: Operator, event: str | None) -> str:
    return await (operator.fence() if event is None else operator.fence_event(event))


async def _unfence(operator: Operator, event: str | None, wait_s: float) -> str:
    return await (operator.unfence(wait_s) if event is None else operator.unfence_event(event, wait_s))


async def _rebuild(operator: Operator, event: str) -> str:
    done = await operator.rebuild(event)
    return f"{done.title}: {done.bookings:,} bookings, epoch {done.epoch}, {done.seconds:.1f} s"


async def _run(command: str, event: str | None, wait_s: float, progress: Progress) -> str:
    settings = load_running_settings()
    failpoints.arm(settings.failpoint)
    stores = await open_stores(settings, command)

    async def act(operator: Operator) -> str:
        if command == "fence":
            return await _fence(operator, event)
        if command == "unfence":
            return await _unfence(operator, event, wait_s)
        assert event is not None
        return await _rebuild(operator, event)

    try:
        return await operate(stores, progress, act)
    finally:
        await stores.close()


def run(command: str, event: str | None, *, is_meant: bool = True, wait_s: float = 0.0) -> int:
    """One of the three commands; its exit status: 0 done, 1 not done, 130 interrupted."""
    progress = Progress()
    try:
        what = f"The sale of {event}" if event else "Every sale"
        if not is_meant and not _is_meant(f"{what} will answer 503 until `rush unfence`."):
            sys.stderr.write("Nothing was done.\n")
            return 1
        text = asyncio.run(_run(command, event, wait_s, progress))
    except OperatorError as error:
        progress.end()
        sys.stderr.write(f"rush {command}: {error}\n")
        return 1
    except KeyboardInterrupt:
        progress.end()
        done = {
            "fence": "whether it is closed is not known: ask again",
            "unfence": "recovery goes on opening",
            "rebuild": "recovery finishes what was begun",
        }[command]
        sys.stderr.write(f"rush {command}: interrupted; {done}\n")
        return INTERRUPTED
    progress.end()
    sys.stdout.write(text + "\n")
    return 0
