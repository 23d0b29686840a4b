"""The processes that make up Ticket Rush, as the supervisor knows them."""

import asyncio
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from engine.settings import Settings, child_environment
from rush.state import forget_metrics_of
from rush.store import Store, launched
from rush.supervisor import Child

STORE_STOP_TIMEOUT_S = 30.0
PROCESS_STOP_TIMEOUT_S = 15.0
"""More than a gateway takes to finish what it is answering."""
HEALTH_TIMEOUT_S = 1.0
_REDIS_STAMP = re.compile(r"^\d+:\w+ \d+ \w+ \d+ [\d:.]+ [#*.-] |^\d+:signal-handler \(\d+\) ")
_POSTGRES_STAMP = re.compile(r"^LOG:  ")
_IDLE_TALK = re.compile(
    r"database \"rush\" does not exist|logical replication launcher|aborting any active trans"
)
"""What a store says at every start or stop and nobody needs; the first is how migrations learn it."""


def tidy_store_line(line: str) -> str | None:
    """A line of a store's log without its stamp; None for one that says nothing."""
    line = _REDIS_STAMP.sub("", _POSTGRES_STAMP.sub("", line)).strip()
    return None if not line or _IDLE_TALK.search(line) else line


def store_child(store: Store) -> Child:
    """An embedded store."""

    def command() -> list[str]:
        store.prepare()
        return store.command()

    async def is_ready() -> bool:
        return await asyncio.to_thread(store.answers)

    return Child(
        name=store.name,
        command=command,
        stop_signal=store.stop_signal,
        stop_timeout_s=STORE_STOP_TIMEOUT_S,
        is_ready=is_ready,
        tidy=tidy_store_line,
    )


def get_status(url: str) -> int:
    """The status of a GET, 0 when nobody answers. Blocks for a second at most."""
    try:
        with urllib.request.urlopen(url, timeout=HEALTH_TIMEOUT_S) as answer:  # noqa: S310 - our own address
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _ours(
    name: str,
    arguments: list[str],
    settings: Settings,
    metrics: Path | None,
    is_ready: Callable[[], bool] | None = None,
    *,
    is_background: bool = False,
) -> Child:
    environment = child_environment(settings)
    if metrics is not None:
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)

    async def ask() -> bool:
        return is_ready is None or await asyncio.to_thread(is_ready)

    return Child(
        name=name,
        command=lambda: launched(
            [sys.executable, "-m", "rush", *arguments, "--as", name], is_background=is_background
        ),
        environment=environment,
        stop_timeout_s=PROCESS_STOP_TIMEOUT_S,
        is_ready=ask,
        died=None if metrics is None else lambda pid: forget_metrics_of(metrics, pid),
    )


def address(settings: Settings) -> str:
    """Where a person on this machine reaches the gateways."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 - replaced
    return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{settings.port}"


def gateway_children(settings: Settings, metrics: Path | None) -> list[Child]:
    """The gateway processes, all on one port."""
    health = address(settings) + "/healthz"
    arguments = ["serve", "--processes", "1"]
    return [
        _ours(f"gateway-{number}", arguments, settings, metrics, lambda: get_status(health) == 200)
        for number in range(1, settings.gateway_processes + 1)
    ]


def workers_children(settings: Settings, metrics: Path | None) -> list[Child]:
    """All workers: the relay, and the others in a process together.

    The relay is behind those that buyers wait for, as the database is: what it carries in bursts, a reserve
    would otherwise wait for.
    """
    from workers.runner import WORKERS

    others = [name for name in WORKERS if name != "relay"]
    return [
        _ours("relay", ["work", "relay"], settings, metrics, is_background=True),
        _ours("workers", ["work", *others], settings, metrics),
    ]
