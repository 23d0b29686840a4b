"""The server process: its socket, its start and its end."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from engine.settings import Settings, child_environment
from gateway.server import bind
from tests.api.conftest import API

PROGRAM = """
import sys
from engine.settings import load_settings
from gateway.server import run
run(load_settings(), port=int(sys.argv[1]), ready=lambda port: print(port, flush=True))
print("ended well", flush=True)
"""


def start(settings: Settings, port: int = 0) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(port)],
        env=child_environment(settings),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.fixture
def servers(settings: Settings) -> Iterator[tuple[list[subprocess.Popen[str]], int]]:
    """Two gateway processes on one port."""
    first, port = start(settings)
    second, _ = start(settings, port)
    yield [first, second], port
    for process in (first, second):
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def test_two_processes_share_a_port_and_end_well(
    servers: tuple[list[subprocess.Popen[str]], int],
) -> None:
    processes, port = servers
    prefixes = set()
    for _ in range(40):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answer = await client.get("/healthz")
            assert answer.status_code == 200
            assert "server" not in answer.headers
            prefixes.add(answer.headers["x-request-id"].rpartition("-")[0])
    assert len(prefixes) == 2
    for process in processes:
        process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.to_thread(process.communicate, timeout=10)
        assert (process.returncode, output) == (0, "ended well\n")


async def test_a_body_in_chunks_is_counted_while_it_is_read(
    servers: tuple[list[subprocess.Popen[str]], int],
) -> None:
    _, port = servers
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {API}/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(66):
        writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
    await writer.drain()
    # The body has no end yet: the answer does not wait for it.
    async with asyncio.timeout(5):
        status = await reader.readline()
        headers = await reader.readuntil(b"\r\n\r\n")
        length = int(headers.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = json.loads(await reader.readexactly(length))
    assert (status.split()[1].decode(), body["error"]["code"]) == ("413", "PAYLOAD_TOO_LARGE")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    ],
)
async def test_what_is_not_http_is_refused_in_the_envelope_too(
    servers: tuple[list[subprocess.Popen[str]], int], request_bytes: bytes
) -> None:
    _, port = servers
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes)
    async with asyncio.timeout(5):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    status, *lines = head.lower().split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    assert status == b"http/1.1 400 bad request"
    assert headers[b"x-request-id"]
    assert headers[b"connection"] == b"close"
    assert int(headers[b"content-length"]) == len(body)
    assert json.loads(body)["error"]["code"] == "VALIDATION_ERROR"


async def test_an_answer_to_head_has_no_body(servers: tuple[list[subprocess.Popen[str]], int]) -> None:
    _, port = servers
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answer = await client.head("/healthz")
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await client.get("/healthz")).status_code == 200


def test_a_port_that_somebody_else_has_is_an_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            bind("127.0.0.1", other.getsockname()[1])


def test_metrics_of_several_processes_are_added_up(settings: Settings, tmp_path: os.PathLike[str]) -> None:
    program = (
        "from observability import metrics; import os; metrics.counter('relay_entries_total').inc(2);"
        "print(metrics.exposition().decode())"
    )
    environment = child_environment(settings) | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for expected in ("relay_entries_total 2.0", "relay_entries_total 4.0"):
        shown = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert expected in shown.stdout
