"""The embedded stores and nothing else: `python -m rush.stores_alone FOLDER`, for benchmarks.

Migrates, then writes the settings that lead to them to `FOLDER/running.env`. Ends, with the stores, on
SIGINT, on SIGTERM, and when its standard input is closed: nothing outlives who started it.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import threading
from pathlib import Path

from engine.settings import RUNNING_FILE, Settings, running_text
from rush.children import store_child
from rush.console import Console
from rush.migrate import migrate
from rush.postgres_store import PostgresStore
from rush.redis_store import RedisStore
from rush.store import remembered_secret, write_private
from rush.supervisor import Supervisor


def _stop_signal() -> asyncio.Event:
    """Set by a signal, and by the end of standard input."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def read_to_the_end() -> None:
        sys.stdin.buffer.read()
        with contextlib.suppress(RuntimeError):  # the loop may be gone by now
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=read_to_the_end, daemon=True).start()
    return stop


async def run(folder: Path) -> None:
    """Run both stores on `folder`, an absolute path, until asked to stop."""
    stop = _stop_signal()
    redis, postgres = RedisStore(folder / "redis"), PostgresStore(folder / "postgres")
    supervisor = Supervisor(Console())
    try:
        await supervisor.start(store_child(redis), store_child(postgres))
        settings = Settings(
            env="development",
            redis_url=redis.url,
            database_url=postgres.url,
            jwt_secret=remembered_secret(folder / "jwt_secret"),
            log_level="warning",
            data_dir=str(folder),
        )
        await migrate(settings)
        aside = folder / f"{RUNNING_FILE}.new"
        write_private(aside, running_text(settings))
        aside.rename(folder / RUNNING_FILE)
        await stop.wait()
    finally:
        (folder / RUNNING_FILE).unlink(missing_ok=True)
        await supervisor.stop([redis.name, postgres.name])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="rush.stores_alone", description="The embedded stores alone.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder.absolute()
    # Others may pass through but not list: Postgres may have to run as another user.
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    asyncio.run(run(folder))


if __name__ == "__main__":
    main()
