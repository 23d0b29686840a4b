"""One phase of `rush bench`: a run of Locust, and what was measured around it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import msgspec

from engine.settings import project_root
from loadtest.hot_plan import (
    ID_BYTES,
    PLAN_FILE,
    HotPlan,
    HotResult,
    ids_path,
    latencies_path,
    read_latencies,
    result_path,
)
from loadtest.organizer import TargetError
from loadtest.stack import free_port

EXIT_TIMEOUT_S = 20.0
POLL_S = 0.2
LOG_TAIL_LINES = 8
PERCENTS = (50.0, 95.0, 99.0, 99.9)


class Seen(msgspec.Struct, kw_only=True):
    """What the clients of one phase saw, all processes together."""

    phase: str
    mode: str
    connections: int
    rate_asked_per_s: float | None
    seconds: float
    sent: int
    accepted: int
    replayed: int
    replays_sent: int
    answers: dict[str, int]
    errors: dict[str, int]
    per_s: float
    """Right answers a second."""
    latency_ms: dict[str, float]
    """P50, P95, P99, P99.9 and max; in an open loop from when the request was due."""
    late_max_ms: float
    locust_us: float
    """Processor time of the load generator for each answer."""
    is_used_up: bool


class LocustRun:
    """Runs plans one after the other, each with a fresh Locust."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    async def run(self, plan: HotPlan) -> Seen:
        """One phase; raises TargetError where Locust fails."""
        folder = Path(plan.folder)
        plan_path = folder / PLAN_FILE
        plan.save(plan_path)
        log_path = folder / "locust.log"
        try:
            with log_path.open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    *self._command(plan, plan_path),
                    cwd=project_root(),
                    env=self._environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            await self._wait(process, plan)
        finally:
            plan_path.unlink(missing_ok=True)  # the secret is in it
        return _merge(plan, log_path)

    def _command(self, plan: HotPlan, plan_path: Path) -> list[str]:
        folder = Path(plan.folder)
        command = [
            sys.executable, "-m", "locust",
            "--locustfile", str(Path(__file__).with_name("hot_locustfile.py")),
            "--hot-plan", str(plan_path),
            "--loglevel", "WARNING",
            "--headless", "--only-summary",
            "--html", str(folder / "locust.html"),
            "--csv", str(folder / "locust"),
            "--exit-code-on-error", "0",
        ]  # fmt: skip
        if plan.processes > 1:
            port = str(free_port())
            command += ["--processes", str(plan.processes), "--master-bind-host", "127.0.0.1"]
            command += ["--master-bind-port", port, "--master-port", port]
        return command

    async def _wait(self, process: asyncio.subprocess.Process, plan: HotPlan) -> None:
        """Until it has ended; whatever happens, nobody of it is left."""
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({ended}, timeout=plan.bound_s + EXIT_TIMEOUT_S)
            if not ended.done():
                raise TargetError(f"Locust does not come to an end ({plan.phase})")
        finally:
            if not ended.done():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                await asyncio.wait({ended}, timeout=EXIT_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await ended


def _merge(plan: HotPlan, log_path: Path) -> Seen:
    folder = Path(plan.folder)
    results: list[HotResult] = []
    for process in range(plan.processes):
        path = result_path(folder, process)
        if not path.exists():
            lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
            raise TargetError("Locust failed:\n" + "\n".join(lines[-LOG_TAIL_LINES:]))
        results.append(msgspec.json.decode(path.read_bytes(), type=HotResult))
    latencies: list[float] = []
    for process in range(plan.processes):
        latencies += read_latencies(latencies_path(folder, process))
    answers = _sum(result.answers for result in results)
    seconds = max(result.seconds for result in results)
    answered = sum(answers.values())
    return Seen(
        phase=plan.phase,
        mode=plan.mode,
        connections=plan.connections * plan.processes,
        rate_asked_per_s=plan.rate_per_s * plan.processes if plan.mode == "open" else None,
        seconds=round(seconds, 3),
        sent=sum(result.sent for result in results),
        accepted=sum(result.accepted for result in results),
        replayed=sum(result.replayed for result in results),
        replays_sent=sum(result.replays_sent for result in results),
        answers=answers,
        errors=_sum(result.errors for result in results),
        per_s=round(len(latencies) / seconds, 1) if seconds else 0.0,
        latency_ms=percentiles_ms(latencies),
        late_max_ms=round(max(result.late_max_ms for result in results), 2),
        locust_us=round(1e6 * sum(result.cpu_s for result in results) / max(1, answered), 2),
        is_used_up=any(result.is_used_up for result in results),
    )


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total.most_common())


def percentiles_ms(latencies_ms: Sequence[float]) -> dict[str, float]:
    """By nearest rank, from all values and not from buckets; empty for none."""
    if not latencies_ms:
        return {}
    ordered = sorted(latencies_ms)
    found = {}
    for percent in PERCENTS:
        rank = max(0, -(-len(ordered) * round(percent * 10) // 1000) - 1)
        found[f"P{percent:g}"] = round(ordered[rank], 2)
    return found | {"max": round(ordered[-1], 2)}


def booking_ids(plan: HotPlan) -> Iterator[UUID]:
    """The id in each 201 of a phase; raises ValueError for one that is no id."""
    for process in range(plan.processes):
        text = ids_path(Path(plan.folder), process).read_bytes().decode("ascii", "replace")
        for start in range(0, len(text), ID_BYTES):
            yield UUID(text[start : start + ID_BYTES])
