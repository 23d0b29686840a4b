"""`rush up` as a person runs it: a process that is started, watched, broken and stopped from outside."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.settings import project_root
from rush.store import free_port
from tests.stores import RedisServer

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30


class Running:
    """One `rush up`, its output in a file."""

    def __init__(self, folder: Path, *arguments: str, port: int | None = None, **environment: str) -> None:
        self.port = port or free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self._path = folder.with_name(f"output-{time.monotonic_ns()}.txt")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RUSH_")}
        with self._path.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rush", "up", "--port", str(self.port), *arguments],
                cwd=project_root(),
                env=inherited | {"RUSH_DATA_DIR": str(folder), "RUSH_BCRYPT_COST": "4"} | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._path.read_text(encoding="utf-8", errors="replace")

    def until(self, claim: Callable[[], Any], timeout_s: float = START_TIMEOUT_S) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := claim()):
            assert time.monotonic() < deadline, self.output[-3000:]
            time.sleep(0.02)
        return found

    def until_up(self) -> "Running":
        def is_up() -> bool:
            assert self.process.poll() is None, self.output
            return "Ctrl-C stops it." in self.output

        self.until(is_up)
        return self

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, word: str) -> psutil.Process:
        """The direct child whose command line holds this word."""
        for process in psutil.Process(self.process.pid).children():
            if word in " ".join(process.cmdline()) and "launch.py" not in " ".join(process.cmdline()):
                return process
        raise AssertionError(f"no child {word}: {self.output[-3000:]}")

    def call(self, path: str, body: object = None, token: str = "") -> tuple[int, Any]:
        request = urllib.request.Request(self.base + path)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read()
        except OSError:
            return 0, None
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def login(self) -> str:
        body = {"email": "buyer@demo.local", "password": "demo-password-1"}
        status, answer = self.call("/api/v1/auth/login", body)
        assert status == 200, answer
        return str(answer["data"]["access_token"])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        family = self.children()
        self.process.send_signal(number)
        status = self.process.wait(STOP_TIMEOUT_S)
        assert [process for process in family if process.is_running()] == []
        return status


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """`start(*arguments, port=None, **environment)`: a `rush up` on this test's data folder."""
    started: list[Running] = []

    def make(*arguments: str, port: int | None = None, **environment: str) -> Running:
        started.append(Running(tmp_path / "data", *arguments, port=port, **environment))
        return started[-1]

    yield make
    for running in started:
        running.process.kill()
        running.process.wait()


def reserve(running: Running, token: str) -> tuple[int, Any]:
    _, event = running.call("/api/v1/events/demo-night")
    zone_id = event["data"]["shows"][0]["zones"][0]["id"]
    body = {"items": [{"zone_id": zone_id, "quantity": 1}]}
    return running.call("/api/v1/bookings/reserve", body, token)


def test_it_comes_up_sells_stops_and_goes_on_where_it_was(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    first = start().until_up()
    assert first.call("/healthz")[0] == 200
    assert first.call("/readyz")[0] == 200
    token = first.login()
    status, booking = reserve(first, token)
    assert status == 201, booking
    status, confirmed = first.call(f"/api/v1/bookings/{booking['data']['id']}/confirm", {}, token)
    assert status == 200, confirmed
    assert first.stop() == 0
    assert first.output.rstrip().endswith(f"Stopped. The data stays in {tmp_path / 'data'}")
    assert (tmp_path / "data" / "jwt_secret").stat().st_mode & 0o777 == 0o600

    second = start().until_up()
    # The same secret, so the token still counts; and the same bookings.
    status, again = second.call(f"/api/v1/bookings/{booking['data']['id']}", token=token)
    assert (status, again["data"]["status"]) == (200, "confirmed")
    assert reserve(second, token)[0] == 201
    assert second.stop(signal.SIGINT) == 0
    assert not re.search("Traceback| error ", second.output)


def test_what_cannot_be_is_said_in_one_line_before_anything_starts(start: Callable[..., Running]) -> None:
    first = start("--no-demo").until_up()
    again = start("--no-demo")
    assert again.process.wait(START_TIMEOUT_S) == 1
    assert again.output.startswith(
        f"rush: it is running already, as process {first.process.pid}, on the data"
    )
    assert len(again.output.splitlines()) == 1


def test_a_port_in_use_is_said_before_anything_starts(start: Callable[..., Running], tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        running = start(port=port)
        assert running.process.wait(START_TIMEOUT_S) == 1
    assert f"rush: port {port} on 127.0.0.1 is taken: stop what uses it" in running.output
    assert not (tmp_path / "data" / "postgres").exists()


def test_servers_that_the_environment_names_are_used_instead_of_our_own(
    start: Callable[..., Running], tmp_path: Path, new_redis: Callable[..., RedisServer], database_url: str
) -> None:
    redis = new_redis()
    running = start(RUSH_REDIS_URL=redis.url, RUSH_DATABASE_URL=database_url).until_up()
    assert reserve(running, running.login())[0] == 201
    programs = {Path(process.exe()).name for process in running.children()}
    assert not programs & {"valkey-server", "redis-server", "postgres"}
    assert not (tmp_path / "data" / "redis").exists()
    assert running.stop() == 0
    assert redis.is_running


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_whoever_is_killed_comes_back_and_selling_goes_on(start: Callable[..., Running]) -> None:
    running = start("--gateways", "2").until_up()
    token = running.login()
    for word, name in (
        ("rush serve", "gateway-"),
        ("rush work relay", "relay"),
        ("rush work recovery", "workers"),
        ("valkey-server", "redis"),
        ("bin/postgres", "postgres"),
    ):
        before = len(running.output)
        running.child(word).send_signal(signal.SIGKILL)
        running.until(lambda name=name, at=before: re.search(rf"{name}\d* is back", running.output[at:]))
        running.until(lambda: running.call("/readyz")[0] == 200)
        running.until(lambda: reserve(running, token)[0] == 201)
        assert re.search(rf"{name}\d* was killed by SIGKILL; starting it again", running.output[before:])
    assert running.stop() == 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nothing_outlives_a_supervisor_that_is_killed(start: Callable[..., Running]) -> None:
    first = start().until_up()
    token = first.login()
    family = first.children()
    assert len(family) > 4
    first.process.kill()
    first.process.wait()
    # At once: the stores of the first may still be closing their files.
    second = start().until_up()
    first.until(lambda: not [process for process in family if process.is_running()], STOP_TIMEOUT_S)
    assert reserve(second, token)[0] == 201
    assert second.stop() == 0
