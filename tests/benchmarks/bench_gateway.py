"""What a reservation costs a gateway process, as a multiple of a bare ASGI answer, in one run.

    python -m tests.benchmarks.bench_gateway [--requests 20000] [--rounds 5] [--connections 64]

The real server (gateway/server.py) with a real Redis (appendfsync always, the real scripts, an event on
sale) stands beside a bare ASGI application on the same server settings: it reads the body of the same POST
and sends a 201 with as many headers and as many bytes. All are asked over keep-alive connections, one
request on each at a time, every request with a token and an Idempotency-Key of its own. The figures are
user and system time of the server process alone, from the operating system's books; the generator's and
Redis' own are not in them. Kinds are interleaved; shown is the median of the rounds.

`bare` runs on uvicorn's own protocol class, `bare, our protocol` on the gateway's.
"""

import argparse
import contextlib
import itertools
import json
import platform
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine.settings import Settings, child_environment, load_settings
from engine.tokens import TokenSigner
from gateway.protocol import GatewayProtocol
from gateway.reserve import PATH
from gateway.server import bind, run, server_config
from tests.lua.cellkit import Backend, Cell, Zone
from tests.stores import RedisServer

SECRET = "a-secret-for-benchmarks-and-nothing-else-0123456789"
CAPACITY = 100_000_000


# The servers, each in a process of its own.


def serve_bare(answer: dict[str, Any], protocol: type[HttpToolsProtocol]) -> None:
    """A bare ASGI application on the gateway's server settings; `answer` has its headers, its body and, where
    it is not 201, its status."""
    start = {
        "type": "http.response.start",
        "status": answer.get("status", 201),
        "headers": [(name.encode(), value.encode()) for name, value in answer["headers"]],
    }
    body = {"type": "http.response.body", "body": answer["body"].encode()}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body", False):
            pass
        await send(start)
        await send(body)

    import uvicorn

    listener = bind("127.0.0.1", 0)
    config = server_config(app, http=protocol, lifespan="off")
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listener])


class Served:
    """A server process."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.bench_gateway", *arguments]
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    @property
    def cpu_s(self) -> float:
        """User and system time of the process so far."""
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def stop(self) -> None:
        """In order."""
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=20)


# The load.


class Buyers:
    """Prebuilt requests, each of a buyer of its own."""

    def __init__(self, port: int, zone: str) -> None:
        signer = TokenSigner(SECRET)
        body = json.dumps({"items": [{"zone_id": zone, "quantity": 1}]}, separators=(",", ":"))
        self._text = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer %s\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Idempotency-Key: %s\r\n\r\n{body}"
        )
        self._sign = lambda: signer.sign(uuid4(), "user", None, ttl_s=3600)

    def requests(self, number: int) -> list[bytes]:
        """So many new ones."""
        return [(self._text % (self._sign(), uuid4())).encode() for _ in range(number)]


def ask(connection: socket.socket, request: bytes) -> tuple[list[list[str]], str]:
    """One request; headers and body of its answer."""
    connection.sendall(request)
    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")[1:]
    headers = [line.split(": ", 1) for line in lines]
    length = next(int(value) for name, value in headers if name == "content-length")
    while len(body) < length:
        body += connection.recv(65536)
    return headers, body.decode()


def load(connections: list[socket.socket], requests: list[bytes], status: int) -> None:
    """Send all requests, one at a time on each connection; every answer must have that status."""
    begin = b"HTTP/1.1 %d " % status
    todo = iter(requests)
    received: dict[int, bytes] = {}
    with selectors.EpollSelector() as selector:
        busy = 0
        for connection, request in zip(connections, todo, strict=False):
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(request)
            busy += 1
        while busy:
            for key, _ in selector.select():
                connection = key.fileobj  # type: ignore[assignment]
                data = received.pop(key.fd, b"") + connection.recv(65536)
                assert data.startswith(begin), data
                head, end, body = data.partition(b"\r\n\r\n")
                at = head.find(b"content-length: ")
                if not end or len(body) < int(head[at + 16 : head.find(b"\r", at) % (len(head) + 1)]):
                    received[key.fd] = data
                    continue
                request = next(todo, None)
                if request is None:
                    busy -= 1
                else:
                    connection.sendall(request)


@contextlib.contextmanager
def connected(port: int, number: int) -> Iterator[list[socket.socket]]:
    """So many connections."""
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(number)]
    for connection in connections:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


# The measurement.


def on_sale(server: RedisServer) -> Cell:
    """An event with a zone of plenty and one that is sold out."""
    client = redis.Redis.from_url(server.url)
    zones = (Zone(CAPACITY, price_minor=4500), Zone(0))
    return Cell(Backend(client), zones, start_ms=0, ledger_max=CAPACITY, secret="5e" * 32)


def cpu_us(server: Served, buyers: Buyers, connections: int, number: int, status: int) -> float:
    """CPU microseconds of the server process for one request."""
    requests = buyers.requests(number)
    with connected(server.port, connections) as opened:
        started_s = server.cpu_s
        load(opened, requests, status)
        return (server.cpu_s - started_s) / number * 1e6


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
        cell = on_sale(redis_server)
        gateway = Served(environment, "--serve", "gateway")
        servers.append(gateway)
        plenty, sold_out = (Buyers(gateway.port, zone) for zone in cell.zones)
        with connected(gateway.port, 1) as [connection]:
            headers, body = ask(connection, plenty.requests(1)[0])
        answer = json.dumps({"headers": headers, "body": body})
        print(f"the answer: {len(headers)} headers, {len(body)} bytes of body", file=sys.stderr)
        bare = Served(environment, "--serve", "bare", "--answer", answer)
        ours = Served(environment, "--serve", "ours", "--answer", answer)
        servers += [bare, ours]
        kinds = {
            "bare": (bare, plenty, 201),
            "bare, our protocol": (ours, plenty, 201),
            "reserve, accepted": (gateway, plenty, 201),
            "reserve, sold out": (gateway, sold_out, 409),
        }
        measured: dict[str, list[float]] = {kind: [] for kind in kinds}
        for number in itertools.chain([0], range(1, options.rounds + 1)):
            for kind, (server, buyers, status) in kinds.items():
                # The first round warms everything up.
                value = cpu_us(server, buyers, options.connections, options.requests, status)
                if number:
                    measured[kind].append(value)
        return {kind: statistics.median(values) for kind, values in measured.items()}
    finally:
        for server in servers:
            server.stop()
        redis_server.kill()


def main() -> None:
    """Start everything, measure, print."""
    parser = argparse.ArgumentParser(description="CPU of a gateway process for one reservation")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--serve", choices=("gateway", "bare", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve == "gateway":
        run(load_settings(), port=0, ready=lambda port: print(port, flush=True))
    elif options.serve:
        serve_bare(options.answer, GatewayProtocol if options.serve == "ours" else HttpToolsProtocol)
    else:
        with tempfile.TemporaryDirectory() as folder:
            medians = measure(Path(folder), options)
        at = time.strftime("%Y-%m-%d")
        where = f"{platform.machine()}, Python {platform.python_version()}"
        print(f"{where}, {at}, {options.connections} connections")
        bare = medians["bare"]
        for kind, value in medians.items():
            print(f"{kind:>20}  {value:6.1f} µs CPU a request = {value / bare:4.2f} x bare")


if __name__ == "__main__":
    main()
