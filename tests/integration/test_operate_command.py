"""`rush fence`, `rush unfence` and `rush rebuild` as an operator types them."""

import asyncio
import signal
import sys
from pathlib import Path
from uuid import uuid4

from engine.settings import child_environment, project_root
from tests.integration.books import differences
from tests.integration.kit import Event, Impatience, Rig

DONE_S = 30.0


async def start(rig: Rig, *arguments: str, folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rush",
        *arguments,
        cwd=project_root(),
        env=child_environment(rig.settings) | {"RUSH_DATA_DIR": str(folder)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def rush(rig: Rig, *arguments: str, folder: Path) -> tuple[int | None, str, str]:
    process = await start(rig, *arguments, folder=folder)
    out, err = await asyncio.wait_for(process.communicate(), DONE_S)
    return process.returncode, out.decode(), err.decode()


async def is_refused(rig: Rig, event: Event) -> bool:
    gateway = await rig.gateway()
    return await Impatience().ask(gateway.reserve(uuid4(), event.items(), None)) is None


async def test_closing_opening_and_rebuilding_from_the_command_line(rig: Rig, tmp_path: Path) -> None:
    rig.work()
    event = await rig.sale()
    name = str(event.id)
    status, _, err = await rush(rig, "fence", folder=tmp_path)
    assert (status, err.splitlines()[-1][-5:]) == (1, "--yes")
    assert not await is_refused(rig, event)
    assert (await rush(rig, "fence", "--yes", folder=tmp_path))[0] == 0
    assert await is_refused(rig, event)
    status, out, _ = await rush(rig, "unfence", folder=tmp_path)
    assert (status, out.startswith("Open again after")) == (0, True)
    assert (await rush(rig, "fence", name, "--yes", folder=tmp_path))[0] == 0
    assert await is_refused(rig, event)
    status, _, err = await rush(rig, "rebuild", name, folder=tmp_path)
    assert (status, err) == (
        1,
        f"rush rebuild: A concert was closed by hand: `rush unfence {name}` first\n",
    )
    assert (await rush(rig, "unfence", name, folder=tmp_path))[0] == 0
    status, out, _ = await rush(rig, "rebuild", name, folder=tmp_path)
    assert (status, out.startswith("A concert: 1 bookings, epoch ")) == (0, True)
    assert await differences(rig, event) == []


async def test_who_is_tired_of_waiting_leaves_cleanly(rig: Rig, tmp_path: Path) -> None:
    rig.work("recovery")
    await rig.sale()
    await rig.close_workers()
    assert (await rush(rig, "fence", "--yes", folder=tmp_path))[0] == 0
    process = await start(rig, "unfence", folder=tmp_path)
    assert process.stderr is not None
    assert await asyncio.wait_for(process.stderr.readline(), DONE_S)
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), DONE_S)
    assert process.returncode == 130
    assert err.decode().splitlines()[-1] == "rush unfence: interrupted; recovery goes on opening"
    assert b"Traceback" not in err
