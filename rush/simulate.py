"""`rush simulate`: a Redis of its own for the time of a simulated sale, and what came of it."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import redis

from engine.settings import load_running_settings
from loadtest.simulation.options import Options, parse
from loadtest.simulation.result import Result, render
from loadtest.simulation.run import Simulation
from rush.redis_store import RedisStore
from rush.store import StoreError

EXIT_BROKEN, EXIT_UNKNOWN, EXIT_INTERRUPTED = 1, 2, 130
START_TIMEOUT_S = 20.0
POLL_S = 0.02
NOTHING_KEPT = ("appendonly no",)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextlib.contextmanager
def private_redis() -> Iterator["redis.Redis"]:
    """An embedded Redis that nobody else uses and that keeps nothing; raises StoreError."""
    with tempfile.TemporaryDirectory(prefix="rush-simulate-") as folder:
        store = RedisStore(Path(folder) / "redis", further_lines=NOTHING_KEPT)
        store.prepare()
        # Ctrl-C is for the simulation: the server ends when that has ended.
        process = subprocess.Popen(store.command(), start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            deadline_s = time.monotonic() + START_TIMEOUT_S
            while not store.answers():
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise StoreError("the simulation's own Redis does not start")
                time.sleep(POLL_S)
            with contextlib.closing(redis.Redis.from_url(store.url)) as client:
                yield client
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _new_folder() -> Path:
    name = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    return Path(load_running_settings().data_dir) / "simulate" / f"{name}-{os.getpid()}"


def _picture(result: Result, path: Path) -> None:
    try:
        from loadtest.simulation.plot import draw
    except ImportError:
        _say('No picture: it needs matplotlib (pip install "ticket-rush[bench]").')
        return
    draw(result, path)
    _say(f"Picture: {path}")


def _run(options: Options) -> int:
    plan = options.plan
    _say(f"{plan.people:,} people, {plan.seats:,} seats, waiting room {plan.mode}, seed {plan.seed}")
    with private_redis() as client:
        simulation = Simulation(client, plan, _say)
        result = simulation.run()
    text = render(result, simulation.observer.problems)
    folder = options.folder or _new_folder()
    folder.mkdir(parents=True, exist_ok=True)
    content = msgspec.json.format(msgspec.json.encode(result), indent=2)
    (folder / "result.json").write_bytes(content)
    (folder / "result.txt").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write((content.decode() if options.is_json else text) + "\n")
    if simulation.draw is not None:
        _say(f"The draw: rush verify-lottery {' '.join(map(str, simulation.draw.write(folder)))}")
    if options.has_picture:
        _picture(result, folder / "picture.png")
    return 0 if result.holds else EXIT_BROKEN


def main(argv: list[str]) -> int:
    """The command; its exit status."""
    options = parse(argv)
    try:
        return _run(options)
    except (StoreError, OSError, ValueError, redis.RedisError) as error:
        _say(f"rush simulate: {error}")
        return EXIT_UNKNOWN
    except KeyboardInterrupt:
        _say("rush simulate: ended before the sale was over; nothing can be said of it")
        return EXIT_INTERRUPTED
