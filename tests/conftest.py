"""Fixtures for everybody: real stores, a migrated database for each test, settings that point at them."""

import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio

from engine.settings import Settings
from engine.stores import Stores, open_redis, open_stores
from rush.migrate import migrate
from tests.cluster import Cluster
from tests.stores import (
    MachinePostgres,
    PostgresServer,
    RedisServer,
    create_database,
    drop_database,
    machine_postgres,
    machine_redis,
    postgres_problem,
    run_aside,
)

TEST_SECRET = "a-secret-for-tests-and-nothing-else-0123456789"
MACHINE_DATABASE_URL = "postgresql://postgres@127.0.0.1:5432/postgres"
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stores",
        choices=("embedded", "machine", "cluster"),
        default="embedded",
        help="what to run on: the embedded servers, or this machine's own (its redis-server in a folder "
        f"of ours, and a database of ours on the Postgres at TEST_DATABASE_URL, {MACHINE_DATABASE_URL}), or "
        "a Redis Cluster of three embedded masters (tests that break the one Redis there is are skipped)",
    )


def _machine_database_url() -> str:
    return os.environ.get("TEST_DATABASE_URL", MACHINE_DATABASE_URL)


def _what_is_missing() -> str | None:
    if machine_redis() is None:
        return "no redis-server on this machine"
    if machine_postgres() is None:
        return "no Postgres binaries on this machine"
    return postgres_problem(_machine_database_url())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--stores") != "machine" or (missing := _what_is_missing()) is None:
        return
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.exit(f"--stores machine, and {missing}: CI says that it must be there", returncode=1)
    for item in items:
        item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="session")
def is_machine(request: pytest.FixtureRequest) -> bool:
    """Whether the suite runs on this machine's own servers."""
    return bool(request.config.getoption("--stores") == "machine")


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the servers of this run keep their data."""
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="session")
def is_cluster(request: pytest.FixtureRequest) -> bool:
    """Whether the Redis that all tests share is a cluster."""
    return bool(request.config.getoption("--stores") == "cluster")


@pytest.fixture(scope="session")
def redis_server(session_folder: Path, is_machine: bool, is_cluster: bool) -> Iterator[RedisServer | Cluster]:
    """The Redis that all tests share. To stop or to kill one, take `new_redis`."""
    if is_cluster:
        server: RedisServer | Cluster = Cluster(session_folder / "cluster")
    else:
        server = RedisServer(session_folder / "redis", binary=machine_redis() if is_machine else None)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def postgres_server(session_folder: Path, is_machine: bool) -> Iterator[PostgresServer | MachinePostgres]:
    """The Postgres that all tests share. To stop or to kill one, take `new_postgres`."""
    if is_machine:
        yield MachinePostgres(_machine_database_url())
        return
    server = PostgresServer(session_folder / "postgres")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer | MachinePostgres) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    name = f"rush_template_{os.getpid()}"
    settings = Settings(env="development", database_url=postgres_server.url_of(name))
    run_aside(migrate(settings))
    yield name
    drop_database(postgres_server, name)


@pytest.fixture
def redis_url(redis_server: RedisServer | Cluster) -> str:
    """A Redis without data and without scripts."""
    redis_server.wipe_live()
    return redis_server.url


@pytest.fixture
def database_url(postgres_server: PostgresServer | MachinePostgres, template_database: str) -> Iterator[str]:
    """A migrated, empty database of this test's own."""
    name = f"rush_test_{os.getpid()}_{next(_numbers)}"
    yield create_database(postgres_server, name, template=template_database)
    drop_database(postgres_server, name)


@pytest.fixture
def settings(redis_url: str, database_url: str, tmp_path: Path) -> Settings:
    """Settings for a process on these stores. Change some with `msgspec.structs.replace`."""
    return Settings(
        env="development",
        redis_url=redis_url,
        database_url=database_url,
        jwt_secret=TEST_SECRET,
        bcrypt_cost=4,
        database_pool_max=4,
        data_dir=str(tmp_path / "rush"),
    )


@pytest.fixture
async def stores(settings: Settings) -> AsyncIterator[Stores]:
    """The stores as a process opens them. The scripts are not loaded: the Redis is fenced."""
    opened = await open_stores(settings)
    yield opened
    await opened.close()


@pytest.fixture
async def redis_client(settings: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    """A client for looking into Redis and changing it behind everybody's back."""
    client = open_redis(settings)
    yield client
    await client.aclose()


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A connection for looking into Postgres and changing it behind everybody's back."""
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


@pytest.fixture
def new_redis(tmp_path: Path, is_machine: bool, is_cluster: bool) -> Iterator[Callable[..., RedisServer]]:
    """`new_redis(replica_of=None)`: a running Redis of this test's own, to be broken."""
    if is_cluster:
        pytest.skip("it breaks the one Redis there is; what breaks in a cluster is in test_cluster*.py")
    servers: list[RedisServer] = []

    def make(*, replica_of: RedisServer | None = None) -> RedisServer:
        folder = tmp_path / f"redis-{next(_numbers)}"
        server = RedisServer(folder, binary=machine_redis() if is_machine else None, replica_of=replica_of)
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def new_postgres(tmp_path: Path, is_machine: bool) -> Iterator[Callable[[], PostgresServer]]:
    """`new_postgres()`: a Postgres of this test's own with a migrated database `rush`, to be broken."""
    servers: list[PostgresServer] = []

    def make() -> PostgresServer:
        folder = tmp_path / f"postgres-{next(_numbers)}"
        server = PostgresServer(folder, bin_folder=machine_postgres() if is_machine else None)
        servers.append(server)
        server.start()
        run_aside(migrate(Settings(env="development", database_url=server.url)))
        return server

    yield make
    for server in servers:
        server.kill()
