"""Migrations: from nothing, again, at once by many, and what is said when they cannot be."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import msgspec
import pytest

from engine.settings import Settings, child_environment, project_root
from rush.migrate import MigrationError, migrate
from rush.store import free_port
from tests.stores import MachinePostgres, PostgresServer, drop_database

VERSIONS = sorted(path.name.split("_")[0] for path in (project_root() / "migrations").glob("2*.sql"))


@pytest.fixture
def fresh(postgres_server: PostgresServer | MachinePostgres) -> Iterator[Settings]:
    """Settings that name a database which does not exist."""
    name = f"rush_fresh_{os.getpid()}_{time.monotonic_ns()}"
    yield Settings(env="development", database_url=postgres_server.url_of(name))
    drop_database(postgres_server, name)


async def applied(settings: Settings) -> list[str]:
    connection = await asyncpg.connect(settings.database_url)
    try:
        rows = await connection.fetch("SELECT version FROM schema_migrations ORDER BY version")
    finally:
        await connection.close()
    return [row["version"] for row in rows]


async def test_a_missing_database_is_made_and_migrated_and_doing_so_again_does_nothing(
    fresh: Settings,
) -> None:
    await migrate(fresh)
    assert await applied(fresh) == VERSIONS
    await migrate(fresh)
    assert await applied(fresh) == VERSIONS


async def test_many_at_once_migrate_once(fresh: Settings) -> None:
    await asyncio.gather(*(migrate(fresh) for _ in range(4)))
    assert await applied(fresh) == VERSIONS


async def test_a_migration_that_fails_leaves_nothing_and_says_why(fresh: Settings, tmp_path: Path) -> None:
    (tmp_path / "20990101000000_broken.sql").write_text(
        "-- migrate:up\nCREATE TABLE half (id int);\nCREATE TABLE oops (id no_such_type);\n-- migrate:down\n"
    )
    with pytest.raises(MigrationError, match="no_such_type"):
        await migrate(fresh, folder=tmp_path)
    assert await applied(fresh) == []
    connection = await asyncpg.connect(fresh.database_url)
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    await connection.close()


async def test_a_server_that_is_away_is_waited_for_and_then_named() -> None:
    port = free_port()
    settings = Settings(env="development", database_url=f"postgresql://u:hunter2@127.0.0.1:{port}/rush")
    began = time.monotonic()
    with pytest.raises(MigrationError, match=f"Postgres at 127.0.0.1:{port}/rush does not answer") as caught:
        await migrate(settings, wait_s=0.5)
    assert 0.5 <= time.monotonic() - began < 5
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "redis://127.0.0.1/0", "postgresql://127.0.0.1"])
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(MigrationError, match="RUSH_DATABASE_URL is not of the form"):
        await migrate(Settings(env="development", database_url=url))


def test_the_command_migrates_and_shows_no_password(fresh: Settings) -> None:
    secret = msgspec.structs.replace(fresh, jwt_secret="x" * 32)
    done = subprocess.run(
        [sys.executable, "-m", "rush", "migrate"],
        cwd=project_root(),
        env=child_environment(secret),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall("applied: ", done.stderr)) == len(VERSIONS)
    password = re.search(r"//\w+:(\w+)@", fresh.database_url)
    assert password is None or password[1] not in done.stderr
