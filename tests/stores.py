"""Real servers for tests, to be used and to be broken: embedded, or from this machine's own binaries."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import redis
import redis.asyncio

from rush.postgres_store import PostgresStore
from rush.redis_store import RedisStore
from rush.store import Store

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.01

T = TypeVar("T")


def run_aside(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, run on a loop of its own in a thread: works inside a running loop too."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


class Server:
    """One store process that a test starts, stops and kills. Data stays in its folder between starts."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.log_path = folder.with_name(folder.name + ".log")

    @property
    def port(self) -> int:
        """The loopback port, the same across restarts."""
        return self.store.port

    @property
    def url(self) -> str:
        """Where clients reach it, password included."""
        return self.store.url

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self.process is not None, "it is not running"
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives (a paused one does)."""
        return self.process is not None and self.process.poll() is None

    def spawn(self) -> None:
        """Start the process without waiting until it answers."""
        assert not self.is_running, "it runs already"
        # The kernel ends the server with the *thread* that started it, and other threads are short-lived.
        assert threading.current_thread() is threading.main_thread(), "start servers from the main thread"
        self.store.prepare()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.store.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _is_ready(self, deadline: float) -> bool:
        if not self.is_running or time.monotonic() > deadline:
            raise AssertionError(f"{self.store.name} did not start:\n{self.log()[-2000:]}")
        return self.store.answers()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.spawn()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready(deadline):
            time.sleep(POLL_S)

    async def start_async(self) -> None:
        """The same without blocking the event loop."""
        self.spawn()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not await asyncio.to_thread(self._is_ready, deadline):
            await asyncio.sleep(POLL_S)

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal, if it still lives."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def _wait(self) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def stop(self) -> None:
        """End it in order; what it was given is on the disk."""
        self.resume()
        self.signal(signal.Signals[self.store.stop_signal])
        self._wait()

    async def stop_async(self) -> None:
        """The same without blocking the event loop."""
        self.resume()
        self.signal(signal.Signals[self.store.stop_signal])
        await asyncio.to_thread(self._wait)

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        self._wait()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Wake it again."""
        self.signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Remove its data; it must not be running. Port and password stay."""
        assert not self.is_running, "it runs"
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self, *, kill: bool = False, empty: bool = False) -> None:
        """End it (`kill`: by kill -9), with `empty` remove its data, and start it on the same port."""
        self.kill() if kill else self.stop()
        if empty:
            self.wipe()
        self.start()

    async def restart_async(self, *, kill: bool = False, empty: bool = False) -> None:
        """The same without blocking the event loop."""
        if kill:
            self.kill()
        else:
            await self.stop_async()
        if empty:
            self.wipe()
        await self.start_async()

    def client(self) -> redis.asyncio.Redis:
        """A client of this Redis server itself, whatever it is part of."""
        return redis.asyncio.Redis.from_url(self.url)

    def log(self) -> str:
        """What the server printed so far."""
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_text(encoding="utf-8", errors="replace")
        return ""


class RedisServer(Server):
    """A Redis with appendfsync always; `replica_of` makes it a replica with the same password."""

    def __init__(
        self, folder: Path, *, binary: Path | None = None, replica_of: "RedisServer | None" = None
    ) -> None:
        store = RedisStore(folder, binary=binary, replica_of=replica_of.port if replica_of else None)
        if replica_of is not None:
            store.password = replica_of.store.password
        super().__init__(store, folder)
        self.store: RedisStore = store

    def sync_client(self) -> redis.Redis:
        """A client that blocks, of this server itself."""
        return redis.Redis.from_url(self.url)

    def wipe_live(self) -> None:
        """Remove all data and scripts from the running server."""
        with self.sync_client() as client:
            client.flushall()
            client.script_flush()


class PostgresServer(Server):
    """A Postgres cluster of its own. `url` is the database `rush`, which `rush.migrate` creates."""

    def __init__(self, folder: Path, *, bin_folder: Path | None = None) -> None:
        store = PostgresStore(folder, bin_folder=bin_folder, is_quick=True)
        super().__init__(store, folder)
        self.store: PostgresStore = store

    def url_of(self, database: str) -> str:
        """Where clients reach one of its databases."""
        return self.store.url_of(database)


class MachinePostgres:
    """This machine's running Postgres, as a client sees it."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url_of(self, database: str) -> str:
        """Where clients reach one of its databases."""
        return urlunsplit(urlsplit(self._url)._replace(path="/" + database))


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url, timeout=START_TIMEOUT_S)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def create_database(
    server: PostgresServer | MachinePostgres, name: str, *, template: str = "template1"
) -> str:
    """Make a database, as a copy of `template`; its URL."""
    run_aside(_execute(server.url_of("postgres"), f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
    return server.url_of(name)


def drop_database(server: PostgresServer | MachinePostgres, name: str) -> None:
    """Remove a database, connected clients or not."""
    run_aside(_execute(server.url_of("postgres"), f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


def postgres_problem(url: str) -> str | None:
    """Why the Postgres at `url` cannot be used, or None."""
    try:
        run_aside(_execute(url, "SELECT 1"))
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        return f"no Postgres at {urlsplit(url).hostname}:{urlsplit(url).port}: {error}"
    return None


def machine_redis() -> Path | None:
    """This machine's own Redis or Valkey server, if it has one."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    return Path(found) if found else None


def machine_postgres() -> Path | None:
    """The bin folder of this machine's newest Postgres, if it has one."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    if found := shutil.which("postgres"):
        folders.append(Path(os.path.realpath(found)).parent)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)
