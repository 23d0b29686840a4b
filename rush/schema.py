"""`python -m rush.schema` (make schema): migrations/schema.sql, what all migrations together lead to."""

import asyncio
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.settings import Settings, project_root
from rush.migrate import migrate
from rush.postgres_store import PostgresStore
from rush.store import StoreError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
DUMP_TIMEOUT_S = 60.0
POLL_S = 0.02
PATH = project_root() / "migrations" / "schema.sql"

_HEADER = "-- Made by `make schema` from the migrations. Do not edit; a test compares it.\n\n"
# What differs between releases of pg_dump, or between two runs of one, and says nothing of the schema.
_NOISE = re.compile(r"--|SET |SELECT pg_catalog\.set_config|\\(un)?restrict ")


@contextmanager
def _running(store: PostgresStore) -> Iterator[None]:
    store.prepare()
    command = store.command()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not store.answers():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise StoreError("the embedded Postgres did not start")
                time.sleep(POLL_S)
            yield
        finally:
            process.send_signal(signal.Signals[store.stop_signal])
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _normalised(dump: str) -> str:
    kept = "\n".join(line.rstrip() for line in dump.splitlines() if not _NOISE.match(line))
    return _HEADER + re.sub(r"\n{2,}", "\n\n", kept).strip() + "\n"


def current_schema() -> str:
    """The schema that the migrations lead to, as pg_dump of the embedded Postgres writes it."""
    with tempfile.TemporaryDirectory(prefix="rush-schema-") as folder:
        # Where Postgres must run as another user, that user passes through.
        Path(folder).chmod(0o711)
        store = PostgresStore(Path(folder) / "postgres", is_quick=True)
        with _running(store):
            asyncio.run(migrate(Settings(env="development", database_url=store.url)))
            command = [str(store.pg_dump()), "--schema-only", "--no-owner", "--no-privileges"]
            command += ["--exclude-table=schema_migrations", store.url]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=DUMP_TIMEOUT_S
            )
            if done.returncode != 0:
                raise StoreError(f"pg_dump: {done.stderr.strip()}")
    return _normalised(done.stdout)


if __name__ == "__main__":
    PATH.write_text(current_schema(), encoding="utf-8")
    sys.stdout.write(f"wrote {PATH.relative_to(project_root())}\n")
