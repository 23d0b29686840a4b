"""The command line: help everywhere, and a mistake is one line and exit status 2."""

import subprocess
import sys

import pytest

from engine.settings import project_root
from rush.cli import main


def rush(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "rush", *arguments],
        cwd=project_root(),
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize(
    "command", [[], ["up"], ["serve"], ["work"], ["migrate"], ["fence"], ["unfence"], ["rebuild"]]
)
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: rush", *command]))


@pytest.mark.parametrize(
    "command", [["up"], ["serve"], ["work"], ["migrate"], ["fence", "--yes"], ["rebuild", "x"]]
)
def test_an_unknown_setting_is_named_by_every_command(command: list[str]) -> None:
    done = rush(*command, RUSH_REDIS_ULR="redis://127.0.0.1/0", RUSH_DATA_DIR="/nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("rush: RUSH_REDIS_ULR is not a setting; there are: RUSH_ENV, ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [["serve"], ["work"], ["migrate"]])
def test_a_missing_secret_in_production_is_an_error_that_says_what_to_do(command: list[str]) -> None:
    done = rush(*command)
    assert done.returncode == 2
    assert done.stderr.startswith("rush: RUSH_JWT_SECRET is missing: set it to at least 32")
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_worker_is_refused_and_the_known_ones_are_named() -> None:
    done = rush("work", "relay", "realy", RUSH_ENV="development")
    assert done.returncode == 2
    known = "recovery, relay, expiry, admission, lottery, publisher, auditor"
    assert done.stderr == f"rush: there is no worker 'realy'; there are: {known}\n"


@pytest.mark.parametrize("port", ["-1", "65536", "http", "8000.5"])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["up", "--port", port])
    assert caught.value.code == 2
    assert f"argument --port: invalid port value: '{port}'" in capsys.readouterr().err
