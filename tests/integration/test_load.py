"""`rush load` for real: Locust against a gateway process, workers and stores, then the verdict."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.ids import cell_of
from engine.keys import CellKeys
from engine.settings import Settings, child_environment, project_root
from loadtest.organizer import Target
from tests.integration.kit import Rig, changed, until

SMALL = ["--people", "300", "--tickets", "120", "--rate", "150", "--hold-ttl", "2", "--think", "0.2"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _spawn(settings: Settings, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rush",
        *words,
        cwd=project_root(),
        env=child_environment(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


@contextlib.asynccontextmanager
async def _process(settings: Settings, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await _spawn(settings, *words)
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        await process.communicate()


@pytest.fixture
async def served(rig: Rig) -> AsyncIterator[Settings]:
    """A gateway process and workers; the settings of both, with the gateway's port."""
    settings = changed(rig.settings, port=_free_port())
    rig.work()
    async with _process(settings, "serve"):
        target = Target(f"http://127.0.0.1:{settings.port}")
        await until(lambda: asyncio.to_thread(target.is_ready), "the gateway is up")
        yield settings


async def _finish(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def _verdict(settings: Settings) -> dict[str, Any]:
    [folder] = (Path(settings.data_dir) / "load").iterdir()
    assert (folder / "verdict.html").exists()
    assert (folder / "locust.html").exists()
    assert not (folder / "plan.json").exists(), "the secret is in it"
    verdict: dict[str, Any] = json.loads((folder / "verdict.json").read_text())["verdict"]
    return verdict


async def test_a_small_rush_sells_what_there_is_and_is_clean(served: Settings) -> None:
    async with _process(served, "load", *SMALL) as process:
        status, out, err = await _finish(process)
    assert status == 0, out + err
    assert "CLEAN" in out
    assert "relay lag" in err
    verdict = _verdict(served)
    assert verdict["arrived"] == 300
    assert (verdict["oversold"], verdict["lost"], verdict["errors"]) == (0, 0, {})
    assert verdict["accepted"] >= 60
    assert verdict["replays"] > 0
    assert set(verdict["refusals"]) == {"reserve 409 INSUFFICIENT_STOCK"}
    assert all(zone["told"] == zone["confirmed"] <= zone["capacity"] for zone in verdict["zones"])
    assert {each["kind"] for each in verdict["latencies"]} == {"reserve", "confirm", "cancel"}


async def _conjure_seats(rig: Rig) -> None:
    """Put seats into Redis that do not exist."""
    event_id = await until(
        lambda: rig.pool.fetchval("SELECT event_id FROM bookings LIMIT 1"), "the cell is built and sells"
    )
    zone = await rig.pool.fetchval(
        "SELECT id FROM seat_zones WHERE event_id = $1 ORDER BY capacity DESC LIMIT 1", event_id
    )
    await rig.redis.hincrby(CellKeys(cell_of(event_id)).zone(zone), "available", 100)


@pytest.mark.slow
async def test_seats_that_do_not_exist_end_a_rush_with_status_1(served: Settings, rig: Rig) -> None:
    async with _process(served, "load", *SMALL) as process:
        await _conjure_seats(rig)
        status, out, err = await _finish(process)
    assert status == 1, out + err
    assert "VIOLATED" in out
    assert "zone_does_not_add_up_in_redis" in out


@pytest.mark.slow
async def test_ctrl_c_ends_a_rush_in_order_and_says_what_is_known(served: Settings, rig: Rig) -> None:
    words = ["load", "--people", "5000", "--rate", "100", "--tickets", "4000", "--processes", "2"]
    async with _process(served, *words) as process:
        await until(lambda: rig.pool.fetchval("SELECT count(*) > 50 FROM bookings"), "people have come")
        process.send_signal(signal.SIGINT)
        status, out, err = await _finish(process)
    assert status == 130, out + err
    assert "CLEAN (interrupted)" in out
    verdict = _verdict(served)
    assert 50 < verdict["arrived"] < 5000
    assert verdict["lost"] == 0
