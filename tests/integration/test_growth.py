"""The growth benchmark as a whole, on sizes that take seconds: it measures everything, or ends in order."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.settings import project_root
from loadtest.growth.turn import OPERATIONS

SMOKE_TIMEOUT_S = 150
STOP_TIMEOUT_S = 60


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "loadtest.growth",
            "--smoke",
            "--out",
            str(folder),
            "--page",
            str(folder / "page.md"),
        ],
        cwd=project_root(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(SMOKE_TIMEOUT_S + 30)
def test_a_run_measures_everything_and_writes_it_down(tmp_path: Path) -> None:
    process = start(tmp_path)
    table, progress = process.communicate(timeout=SMOKE_TIMEOUT_S)
    assert process.returncode == 0, progress
    found = json.loads((tmp_path / "growth.json").read_bytes())
    assert [line["operation"] for line in found["by_holds"]] == list(OPERATIONS)
    assert all(point["median_us"] > 0 for line in found["by_holds"] for point in line["points"])
    assert found["surge"]["slice_max"] > 0
    assert found["surge"]["calls"] * found["surge"]["slice_max"] >= found["surge"]["holds"]
    assert all(each["per_hold"] > 0 for each in found["memory"])
    assert found["rewrite"]["before"]["reserves"] > 0
    assert "within 20 %" in table
    for picture in ("growth.png", "page.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert "](page.png)" in (tmp_path / "page.md").read_text()


@pytest.mark.timeout(STOP_TIMEOUT_S + 30)
def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.stderr is not None
    assert "starting stores" in process.stderr.readline()
    children: list[psutil.Process] = []
    while not any("valkey" in child.name() or "redis" in child.name() for child in children):
        children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, progress = process.communicate(timeout=STOP_TIMEOUT_S)
    assert process.returncode == 130, progress
    assert "interrupted" in progress
    gone, alive = psutil.wait_procs(children, timeout=5)
    assert not alive, [child.name() for child in alive]
    assert len(gone) == len(children)
