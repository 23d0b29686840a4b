"""The hot line comes up, stays up and ends: greeting, back-off, closing, TLS."""

import asyncio
import gc
import logging
import ssl
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest

import engine.hotline
import engine.redis_link
from engine.errors import OutcomeUnknown, StoreUnavailable
from engine.hotline import HotLine
from tests.scripted_redis import FAR_MS, OK, Connect, ScriptedRedis, bulk, greet, outcome, outcomes, until

TIMEOUT_MS = 250


# Connecting.


async def test_starting_needs_no_server_and_the_line_comes_up_when_one_appears(
    server: ScriptedRedis, connect: Connect
) -> None:
    await server.close()
    line = await connect()
    assert not line.connected
    with pytest.raises(StoreUnavailable):
        line.call("PING")
    await server.listen()
    await until(lambda: line.connected)


async def test_a_server_that_still_loads_its_data_is_not_connected_to_yet(
    server: ScriptedRedis, connect: Connect
) -> None:
    server.greet = lambda command: b"-LOADING wait\r\n" if command[0] == b"PING" else OK
    line = await connect()
    assert not line.connected
    await until(lambda: server.connections >= 3)
    assert not line.connected
    server.greet = greet
    await until(lambda: line.connected)


async def test_the_first_attempt_after_a_good_connection_follows_at_once(
    server: ScriptedRedis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.hotline, "STEADY_S", 0)
    monkeypatch.setattr(engine.hotline, "BACKOFF_FIRST_S", 3600)
    monkeypatch.setattr(engine.hotline, "BACKOFF_MAX_S", 3600)
    line = await connect()
    server.cut()
    await until(lambda: server.connections == 2 and line.connected)


async def test_a_server_that_hangs_up_at_once_is_tried_again_ever_more_slowly(
    server: ScriptedRedis, connect: Connect
) -> None:
    server.on_connect = lambda writer: writer.transport.abort()
    line = await connect()
    await asyncio.sleep(0.5)
    assert 2 <= server.connections <= 8
    assert not line.connected
    server.on_connect = None
    await until(lambda: line.connected)


async def test_a_server_that_cuts_every_good_connection_is_tried_again_ever_more_slowly(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect()
    until_s = asyncio.get_running_loop().time() + 0.5
    while asyncio.get_running_loop().time() < until_s:
        if line.connected:
            server.cut()
        await asyncio.sleep(0.001)
    assert 2 <= server.connections <= 8


async def test_a_connection_cut_behind_its_greeting_is_no_connection(
    server: ScriptedRedis, connect: Connect
) -> None:
    def answer_and_cut(command: list[bytes]) -> bytes | None:
        if command[0] == b"PING":
            server.send(b"+PONG\r\n")
            assert server.writer is not None
            server.writer.write_eof()
            return None
        return OK

    server.greet = answer_and_cut
    line = await connect()
    await until(lambda: server.connections >= 3)
    server.greet = greet
    await until(lambda: line.connected and server.answer is None)
    server.answer = lambda command: OK
    await until(lambda: line.connected)
    assert await line.call("X") == b"OK"


async def test_a_server_that_accepts_and_says_nothing_is_given_up(
    server: ScriptedRedis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.hotline, "CONNECT_TIMEOUT_S", 0.05)
    server.greet = lambda command: None
    line = await connect()
    assert not line.connected
    await until(lambda: server.connections >= 2)


@pytest.mark.parametrize(
    ("user_info", "database", "expected"),
    [
        ("", "", []),
        (":hush@", "", [[b"AUTH", b"hush"]]),
        ("rush:hu%40sh@", "", [[b"AUTH", b"rush", b"hu@sh"]]),
        ("rush:@", "/3", [[b"AUTH", b"rush", b""], [b"SELECT", b"3"]]),
        ("", "/0", []),
    ],
)
async def test_the_greeting_says_what_the_url_says(
    server: ScriptedRedis, connect: Connect, user_info: str, database: str, expected: list[list[bytes]]
) -> None:
    line = await connect(f"redis://{user_info}127.0.0.1:{server.port}{database}")
    assert line.connected
    assert server.greetings == [*expected, [b"CLIENT", b"SETNAME", b"rush"], [b"PING"]]


async def test_a_refused_login_is_no_connection_and_no_secret_in_the_log(
    server: ScriptedRedis, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server.greet = lambda command: b"-WRONGPASS invalid username-password pair\r\n"
    with caplog.at_level(logging.DEBUG):
        line = await connect(f"redis://rush:hush@127.0.0.1:{server.port}")
    assert not line.connected
    assert "WRONGPASS" in caplog.text
    assert "hush" not in caplog.text


async def test_a_unix_socket_serves_as_well(connect: Connect, tmp_path: Path) -> None:
    scripted = ScriptedRedis()
    await scripted.listen(path=tmp_path / "s")
    scripted.answer = lambda command: bulk(command[1])
    line = await connect(f"unix://{tmp_path}/s?db=2")
    assert await line.call("ECHO", "x") == b"x"
    assert [b"SELECT", b"2"] in scripted.greetings
    await line.close()
    await scripted.close()


# Closing.


async def test_closing_fails_what_is_in_flight_and_ends_the_connection(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect()
    written = line.call("X", 1)
    await server.received(1)
    unwritten = line.call("X", 2)
    await line.close()
    assert await outcomes(written, unwritten) == [OutcomeUnknown, StoreUnavailable]
    assert not line.connected
    with pytest.raises(StoreUnavailable):
        line.call("X")
    await line.close()
    assert server.connections == 1


async def test_closing_ends_a_line_that_never_came_up_or_never_began(server: ScriptedRedis) -> None:
    await HotLine(server.url, in_flight_max=1, timeout_ms=1).close()
    server.greet = lambda command: None
    line = HotLine(server.url, in_flight_max=1, timeout_ms=FAR_MS)
    starting = asyncio.create_task(line.start())
    await until(lambda: server.connections == 1)
    await line.close()
    await asyncio.wait_for(starting, 1)
    assert not line.connected


async def test_nobody_is_told_of_an_exception_that_nobody_waited_for(
    server: ScriptedRedis, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    line = await connect(timeout_ms=TIMEOUT_MS, replicas_min=1)
    line.call("X", "refused")
    line.call("X", "held")
    line.call("X", "cut")
    await server.received(3)
    server.send(b"-ERR no\r\n:1\r\n")
    await asyncio.sleep(2 * TIMEOUT_MS / 1000)
    await until(lambda: line.connected)
    line.call("X", "closed")
    await line.close()
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []
    assert "never retrieved" not in caplog.text


# TLS.


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for `name` and its key."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(
        (
            f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} "
            f"-addext subjectAltName=DNS:{name} -keyout {key} -out {certificate}"
        ).split(),
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.mark.skipif(which("openssl") is None, reason="openssl, which makes the certificate, is not here")
async def test_tls_is_spoken_and_the_certificate_is_checked(connect: Connect, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "localhost")
    other, _ = make_certificate(tmp_path, "elsewhere")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    scripted = ScriptedRedis()
    await scripted.listen(tls=context)
    scripted.answer = lambda command: bulk(command[1])
    base = f"rediss://localhost:{scripted.port}/1?ssl_ca_certs="

    line = await connect(f"{base}{certificate}")
    assert line.connected
    replies = await asyncio.gather(*[line.call("ECHO", "x" * 100_000) for _ in range(50)])
    assert set(replies) == {b"x" * 100_000}
    pending = line.call("ECHO", "y")
    await asyncio.sleep(0)
    scripted.cut()
    assert await outcome(pending) in {OutcomeUnknown, b"y"}

    assert not (await connect(f"{base}{other}")).connected
    by_address = f"rediss://127.0.0.1:{scripted.port}/1?ssl_ca_certs={certificate}"
    assert not (await connect(by_address)).connected
    assert (await connect(f"{by_address}&ssl_check_hostname=false")).connected
    await line.close()
    await scripted.close()
