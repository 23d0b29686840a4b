"""`rush bench` for a few seconds: is what it says correct? How fast it was is nobody's business here."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from engine.settings import child_environment, load_settings, project_root
from loadtest.bench_cpu import children_by_parent

PHASES = {"open-loop", "closed-loop", "sold-out", "warm-up", "bare-open", "bare-closed", "bare-warm-up"}


async def _bench(*words: str) -> asyncio.subprocess.Process:
    settings = load_settings({"RUSH_ENV": "development"})
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rush", "bench", *words,
        cwd=project_root(),
        env=child_environment(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def _below(pid: int) -> set[int]:
    """All processes that this one started, those that they started, and so on."""
    children = children_by_parent()
    found: set[int] = set()
    rest = [pid]
    while rest:
        new = children.get(rest.pop(), [])
        found.update(new)
        rest += new
    return found


async def _finish(process: asyncio.subprocess.Process, timeout_s: float) -> tuple[str, str]:
    """What it wrote until it ended; what does not end in time is ended, with all that it started."""
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_s)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 20)
    return out.decode(), err.decode()


@pytest.mark.timeout(240)
async def test_a_smoke_of_the_benchmark_is_correct(tmp_path: Path) -> None:
    words = ["--smoke", "--json", "--locust-processes", "2", "--keep", str(tmp_path)]
    process = await _bench(*words)
    out, err = await _finish(process, 200)
    assert process.returncode == 0, out + err
    found = json.loads(out)
    assert found["wrong"] == []
    assert found["audit_state"] == "clean"
    books = found["books"]
    assert books["missing"] == 0
    assert books["rows"] == books["accepted"] > 100
    for name in ("open", "closed"):
        seen = found[name]["seen"]
        assert seen["accepted"] == seen["sent"] == sum(seen["answers"].values()) > 0
        assert seen["errors"] == {}
        assert set(seen["latency_ms"]) == {"P50", "P95", "P99", "P99.9", "max"}
        assert found[name]["server_ms"]["P50"] is not None
    assert found["open"]["seen"]["sent"] == 400, "an open loop sends what is due, whatever happens"
    sold_out = found["sold_out"]["seen"]
    assert sold_out["accepted"] == 0
    assert sold_out["replayed"] == sold_out["replays_sent"] > 0
    assert sold_out["answers"]["reserve: 409 INSUFFICIENT_STOCK"] > 0
    assert found["bare_closed"]["seen"]["errors"] == {}
    assert {name for name in os.listdir(tmp_path) if (tmp_path / name).is_dir()} == PHASES
    assert (tmp_path / "open-loop" / "locust_stats.csv").read_text().count("reserve") == 1
    assert "reserve" in (tmp_path / "closed-loop" / "locust.html").read_text()
    assert not [name for phase in PHASES for name in os.listdir(tmp_path / phase) if "plan" in name], (
        "a secret"
    )


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_ctrl_c_leaves_nobody_behind(tmp_path: Path) -> None:
    process = await _bench("--seconds", "60", "--rate", "50", "--connections", "2", "--keep", str(tmp_path))
    assert process.stderr is not None
    while line := await process.stderr.readline():
        if b"into the ledger" in line:
            break
    assert line, "it did not come to its first phase"
    started = _below(process.pid)
    assert len(started) > 6, "stores, gateway, workers, Locust"
    process.send_signal(signal.SIGINT)
    out, err = await _finish(process, 60)
    assert process.returncode == 130, out + err
    assert "Stopped" in err
    assert out == ""
    everybody = {pid for pids in children_by_parent().values() for pid in pids}
    assert not started & everybody
