"""What a launched process takes with it, and what the data folder of `rush up` allows."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rush.postgres_store import PostgresStore
from rush.state import InUseError, sole_use
from rush.store import (
    BACKGROUND_NICE,
    StoreError,
    free_port,
    is_port_free,
    launched,
    remembered_port,
    remembered_secret,
)

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; print('up', flush=True); time.sleep(60)"]


def test_two_processes_never_run_on_one_folder_and_the_error_names_the_first(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen(launched(SLEEP, lock=lock), stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"up\n"
        command = launched(SLEEP, lock=lock)
        command[command.index("--lock") : command.index("--lock")] = ["--lock-wait-s", "0.1"]
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        first.kill()
    assert second.returncode == 3
    assert (
        second.stderr
        == f"{tmp_path} is in use by process {first.pid}: stop that one first (kill {first.pid})\n"
    )


def test_a_lock_is_free_again_after_kill_9(tmp_path: Path) -> None:
    for _ in range(2):
        with subprocess.Popen(launched(SLEEP, lock=tmp_path / "lock"), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            process.kill()


def test_a_command_that_does_not_exist_is_one_line() -> None:
    done = subprocess.run(
        launched(["/no/such/server"]), capture_output=True, text=True, check=False, timeout=10
    )
    assert done.returncode == 3
    assert done.stderr.startswith("cannot start /no/such/server: ")
    assert len(done.stderr.splitlines()) == 1


def test_what_runs_in_the_background_lets_others_go_first() -> None:
    group = Path("/proc/self/autogroup")
    code = "import os; print(os.nice(0)); print(open('/proc/self/autogroup').read())"
    command = launched([sys.executable, "-I", "-S", "-c", code], is_background=True)
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=10, start_new_session=True
    )
    nice, *in_group = ran.stdout.splitlines()
    assert int(nice) == min(19, os.nice(0) + BACKGROUND_NICE)
    if group.exists():
        assert in_group[0].endswith(f"nice {BACKGROUND_NICE}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to leave")
def test_nobody_who_leaves_root_is_root(tmp_path: Path) -> None:
    code = f"import os; open({str(tmp_path / 'made')!r}, 'w').close(); print(os.geteuid())"
    command = launched([sys.executable, "-I", "-S", "-c", code], leave_root=tmp_path)
    assert int(subprocess.run(command, capture_output=True, check=True, timeout=10).stdout) != 0


def test_a_second_run_on_the_same_data_names_the_first(tmp_path: Path) -> None:
    with sole_use(tmp_path), pytest.raises(InUseError, match=f"process {os.getpid()}"), sole_use(tmp_path):
        pass
    with sole_use(tmp_path):
        pass


def test_secrets_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    secret = remembered_secret(path)
    assert len(secret) == 64
    assert remembered_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_port_is_remembered_and_left_to_whoever_took_it(tmp_path: Path) -> None:
    path = tmp_path / "port"
    port = remembered_port(path)
    assert remembered_port(path) == port
    path.write_text("not a number")
    assert is_port_free(remembered_port(path))


def test_free_ports_lie_outside_the_range_of_outgoing_connections() -> None:
    text = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not text.exists():
        pytest.skip("only Linux tells")
    first, last = map(int, text.read_text().split())
    assert all(not first <= free_port() <= last for _ in range(20))


def test_data_of_another_major_version_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir()
    (folder / "PG_VERSION").write_text("9\n")
    remembered_secret(tmp_path / "postgres.password")
    with pytest.raises(StoreError, match="was made by Postgres 9"):
        PostgresStore(folder).prepare()
    assert [path.name for path in folder.iterdir()] == ["PG_VERSION"]


def test_the_process_id_of_somebody_else_does_not_keep_postgres_from_starting(tmp_path: Path) -> None:
    store = PostgresStore(tmp_path / "postgres", is_quick=True)
    store.prepare()
    # As after a restart of the machine: the number in the file is another program's now.
    (store.folder / "postmaster.pid").write_text(
        f"{os.getpid()}\n{store.folder}\n1\n{store.port}\n\n127.0.0.1\n"
    )
    store.prepare()
    with subprocess.Popen(store.command(), stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 10
        while not store.answers():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
