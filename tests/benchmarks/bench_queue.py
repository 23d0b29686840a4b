"""What joining a queue and asking how one stands cost a gateway process, with a million people in the queue.

    python -m tests.benchmarks.bench_queue [--people 1000000] [--requests 10000] [--rounds 5]

Everything as in bench_gateway: the real server, a real Redis (appendfsync always, the real scripts), CPU of
the server process alone from the operating system's books, kinds interleaved, the median of the rounds;
`bare` is a bare ASGI application on the same server settings that answers the same request with as many
bytes. Every join is somebody else's, every status that of somebody else among all who wait.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import redis

from engine.ids import make_id
from engine.settings import Settings, child_environment
from engine.tokens import TokenSigner
from engine.waiting.tickets import QueueSigner
from gateway.queue import JOIN_PATH, STATUS_PATH
from tests.benchmarks.bench_gateway import CAPACITY, SECRET, Served, ask, connected, load
from tests.lua.cellkit import Backend, Zone
from tests.lua.queuekit import QueueCell
from tests.stores import RedisServer

FEW = 1_000
SLICE = 5_000
TARGETS = {"join": 10_000, "status": 20_000}
"""A second, on one core."""


def user_of(number: int) -> UUID:
    """Who has this number."""
    return UUID(int=number << 64 | 0x8000 << 48 | number)


class Waiting:
    """An event in whose queue so many people wait already."""

    def __init__(self, server: RedisServer, people: int) -> None:
        client = redis.Redis.from_url(server.url)
        zone = Zone(CAPACITY, price_minor=4500)
        self._cell = QueueCell(Backend(client), [zone], sale={"ledger_max": CAPACITY, "secret": "5e" * 32})
        self.event_id = make_id(self._cell.id.event_ref, 0, 0)
        self._people = people
        self._tickets = QueueSigner(SECRET)
        self._tokens = TokenSigner(SECRET)
        self._chance = random.Random(people)
        for start in range(1, people + 1, SLICE):
            numbers = range(start, min(start + SLICE, people + 1))
            client.hset(self._cell.keys.places, mapping={user_of(n).bytes: n for n in numbers})  # type: ignore[misc]
        client.hset(self._cell.keys.queue, "tail", people)

    def statuses(self, count: int) -> list[bytes]:
        """So many questions, each of somebody else."""
        numbers = self._chance.sample(range(1, self._people + 1), min(count, self._people))
        tickets = [self._tickets.ticket(self.event_id, user_of(number), number) for number in numbers]
        head = f"GET {STATUS_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Queue-Ticket: %s\r\n\r\n"
        return [(head % ticket).encode() for ticket in tickets]

    def joins(self, count: int) -> list[bytes]:
        """So many people who have no place yet."""
        body = json.dumps({"event_id": str(self.event_id)}, separators=(",", ":"))
        text = (
            f"POST {JOIN_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        )
        return [(text % self._tokens.sign(uuid4(), "user", None, ttl_s=3600)).encode() for _ in range(count)]


class Kind:
    """One kind of request to one server, and what was measured of it."""

    def __init__(self, server: Served, requests: Callable[[int], list[bytes]], status: int) -> None:
        self._server = server
        self._requests = requests
        self._status = status
        self.measured: list[float] = []

    def measure(self, connections: int, count: int) -> float:
        """CPU microseconds of the server process for one request."""
        requests = self._requests(count)
        with connected(self._server.port, connections) as opened:
            started_s = self._server.cpu_s
            load(opened, requests, self._status)
            return (self._server.cpu_s - started_s) / len(requests) * 1e6


def bare_of(environment: dict[str, str], gateway: Served, request: bytes, status: int) -> Served:
    """A bare server that answers with as many headers and bytes as the gateway does."""
    with connected(gateway.port, 1) as [connection]:
        headers, body = ask(connection, request)
    answer = json.dumps({"headers": headers, "body": body, "status": status})
    print(f"the answer: {len(headers)} headers, {body}", file=sys.stderr)
    return Served(environment, "--serve", "bare", "--answer", answer)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The medians."""
    redis_server = RedisServer(folder / "redis")
    redis_server.start()
    (folder / "metrics").mkdir()
    settings = Settings(
        env="development", redis_url=redis_server.url, database_url="postgresql://127.0.0.1:1/none",
        jwt_secret=SECRET, log_level="error",
    )  # fmt: skip
    environment = child_environment(settings) | {"PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics")}
    servers: list[Served] = []
    try:
        many, few = Waiting(redis_server, options.people), Waiting(redis_server, FEW)
        gateway = Served(environment, "--serve", "gateway")
        servers.append(gateway)
        bare_status = bare_of(environment, gateway, many.statuses(1)[0], 200)
        servers.append(bare_status)
        bare_join = bare_of(environment, gateway, many.joins(1)[0], 201)
        servers.append(bare_join)
        kinds = {
            "bare GET": Kind(bare_status, many.statuses, 200),
            "status": Kind(gateway, many.statuses, 200),
            f"status, {FEW:,} people": Kind(gateway, few.statuses, 200),
            "bare POST": Kind(bare_join, many.joins, 201),
            "join": Kind(gateway, many.joins, 201),
            f"join, {FEW:,} people": Kind(gateway, few.joins, 201),
        }
        for number in range(options.rounds + 1):
            for kind in kinds.values():
                value = kind.measure(options.connections, options.requests)
                # The first round warms everything up.
                if number:
                    kind.measured.append(value)
        return {name: statistics.median(kind.measured) for name, kind in kinds.items()}
    finally:
        for server in servers:
            server.stop()
        redis_server.kill()


def main() -> None:
    """Start everything, measure, print."""
    parser = argparse.ArgumentParser(description="CPU of a gateway process for joins and status polls")
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        medians = measure(Path(folder), options)
    at = time.strftime("%Y-%m-%d")
    where = f"{platform.machine()}, Python {platform.python_version()}"
    print(f"{where}, {at}, {options.connections} connections, {options.people:,} people in the queue")
    for name, value in medians.items():
        what = name.partition(",")[0]
        bare = medians["bare POST" if what in ("join", "bare POST") else "bare GET"]
        target = f", {TARGETS[what]:,}/s wanted" if what in TARGETS else ""
        rate = f"{1e6 / value:7,.0f}/s a core{target}"
        print(f"{name:>22}  {value:6.1f} µs CPU a request = {value / bare:4.2f} x bare; {rate}")


if __name__ == "__main__":
    main()
