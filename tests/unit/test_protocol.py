"""The gateway's protocol on real sockets: what goes the short way, what does not, and nobody can tell."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from uvicorn.server import ServerState

from gateway.errors import Headers
from gateway.protocol import GatewayProtocol
from gateway.server import server_config
from gateway.wire import Exchange, http_answer, json_headers

BODY = b'{"items":[]}'
HEAD = b"POST /hot HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(BODY)
POST = HEAD + b"\r\n" + BODY


class Hot:
    """A hot endpoint that answers when the test says so."""

    verb = b"POST"
    takes_query = False
    bytes_max = 64

    def __init__(self) -> None:
        self.begun: asyncio.Queue[tuple[Exchange, bytes]] = asyncio.Queue()

    def begin(self, exchange: Exchange, body: bytes) -> None:
        self.begun.put_nowait((exchange, body))


class HotGet(Hot):
    """One that is asked without a body."""

    verb = b"GET"
    takes_query = True


class App:
    """An application whose ASGI side says what it was asked."""

    def __init__(self) -> None:
        self.post = Hot()
        self.get = HotGet()
        self.hot = {b"/hot": self.post, b"/get": self.get}
        self.asked: asyncio.Queue[Any] = asyncio.Queue()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        self.asked.put_nowait((scope, body))
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"asgi"})


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        async with asyncio.timeout(10):
            head = await self._reader.readuntil(b"\r\n\r\n")
            status, *lines = head[:-4].split(b"\r\n")
            headers = dict(line.split(b": ", 1) for line in lines)
            return (
                int(status.split()[1]),
                headers,
                await self._reader.readexactly(int(headers.get(b"content-length", 0))),
            )

    async def rest(self) -> bytes:
        """What comes until the server hangs up."""
        async with asyncio.timeout(10):
            return await self._reader.read()


class Server:
    """A server with the gateway's protocol."""

    def __init__(self) -> None:
        self.app = App()
        self.hot = self.app.post
        self.state = ServerState()
        self.config = server_config(self.app, lifespan="off")
        self.protocols: list[GatewayProtocol] = []

    def protocol(self) -> GatewayProtocol:
        made = GatewayProtocol(config=self.config, server_state=self.state, app_state={})
        self.protocols.append(made)
        return made


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    server.config.load()
    listening = await asyncio.get_running_loop().create_server(server.protocol, "127.0.0.1", 0)
    opened = Client(*await asyncio.open_connection(*listening.sockets[0].getsockname()))
    yield opened
    opened.writer.close()
    listening.close()
    await listening.wait_closed()
    while server.state.connections:
        await asyncio.sleep(0)


async def begun(server: Server) -> tuple[Exchange, bytes]:
    async with asyncio.timeout(10):
        return await server.hot.begun.get()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_a_post_goes_the_short_way_again_and_again(server: Server, client: Client) -> None:
    for number in range(3):
        client.send(POST)
        exchange, body = await begun(server)
        assert body == BODY
        exchange.answer(201, [(b"x-ledger-seq", b"1-%d" % number)], b"{}")
        status, headers, answered = await client.answer()
        assert (status, answered) == (201, b"{}")
        assert headers[b"x-ledger-seq"] == b"1-%d" % number
        assert headers[b"x-request-id"] == exchange.head.request_id
        assert headers[b"cache-control"] == b"no-store"
    assert server.app.asked.empty()
    assert server.state.total_requests == 3


@pytest.mark.parametrize(
    ("url", "query"), [(b"/get", b""), (b"/get?ticket=x%20y", b"ticket=x%20y"), (b"/get?", b"")]
)
async def test_a_get_goes_the_short_way_with_its_query(
    server: Server, client: Client, url: bytes, query: bytes
) -> None:
    for _ in range(2):
        client.send(b"GET " + url + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(10):
            exchange, body = await server.app.get.begun.get()
        assert (exchange.query, body) == (query, b"")
        exchange.answer(200, [], b"{}")
        assert (await client.answer())[::2] == (200, b"{}")
    assert server.app.asked.empty()


async def test_a_request_may_come_byte_by_byte(server: Server, client: Client) -> None:
    for index in range(len(POST)):
        client.send(POST[index : index + 1])
        await client.writer.drain()
        await asyncio.sleep(0)
    exchange, body = await begun(server)
    assert body == BODY
    exchange.answer(201, [], b"{}")
    assert (await client.answer())[0] == 201


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
EXTRAORDINARY = {
    "another path": (POST.replace(b"/hot", b"/cold"), BODY),
    "a query": (POST.replace(b"/hot", b"/hot?x=1"), BODY),
    "another method": (b"GET /hot HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    "another method of a get": (POST.replace(b"/hot", b"/get"), BODY),
    "a get with chunks": (b"GET /get HTTP/1.1\r\nHost: x\r\n" + CHUNKED, BODY),
    "no length": (b"POST /hot HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    "chunks": (b"POST /hot HTTP/1.1\r\nHost: x\r\n" + CHUNKED, BODY),
    "too long": (b"POST /hot HTTP/1.1\r\nHost: x\r\nContent-Length: 65\r\n\r\n" + b"x" * 65, b"x" * 65),
    "an upgrade": (HEAD + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n" + BODY, b""),
    "the last one": (HEAD + b"Connection: close\r\n\r\n" + BODY, BODY),
    "HTTP/1.0": (
        POST.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n"),
        BODY,
    ),
}


@pytest.mark.parametrize(("request_bytes", "body"), EXTRAORDINARY.values(), ids=EXTRAORDINARY)
async def test_what_is_out_of_the_ordinary_goes_through_asgi(
    server: Server, client: Client, request_bytes: bytes, body: bytes
) -> None:
    client.send(request_bytes)
    assert (await client.answer())[::2] == (200, b"asgi")
    scope, asked = server.app.asked.get_nowait()
    assert asked == body
    assert (b"host", b"x") in scope["headers"]
    assert server.hot.begun.empty()


async def test_whoever_asks_whether_to_go_on_is_told_to(server: Server, client: Client) -> None:
    client.send(HEAD + b"Expect: 100-continue\r\n\r\n")
    assert (await client.answer())[0] == 100
    client.send(BODY)
    assert (await client.answer())[0] == 200
    assert server.app.asked.get_nowait()[1] == BODY


async def test_requests_in_one_packet_are_answered_in_order(server: Server, client: Client) -> None:
    client.send(POST * 3)
    exchange, _ = await begun(server)
    assert server.app.asked.empty()
    exchange.answer(201, [], b"first")
    assert (await client.answer())[::2] == (201, b"first")
    for _ in range(2):
        assert (await client.answer())[::2] == (200, b"asgi")
    client.send(POST)
    exchange, _ = await begun(server)
    exchange.answer(201, [], b"last")
    assert (await client.answer())[::2] == (201, b"last")


async def test_requests_in_one_packet_that_are_answered_at_once_all_go_the_short_way(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.hot, "begin", lambda exchange, body: exchange.answer(409, [], body))
    client.send(POST * 3)
    for _ in range(3):
        assert (await client.answer())[::2] == (409, BODY)
    assert server.app.asked.empty()


async def test_half_a_request_of_a_client_that_left_is_never_begun(server: Server, client: Client) -> None:
    client.send(POST[:-1])
    await until(lambda: server.protocols and server.protocols[0].cycle)
    client.writer.close()
    await until(lambda: not server.state.connections)
    assert server.hot.begun.empty()


async def test_the_answer_to_a_client_that_left_is_dropped(server: Server, client: Client) -> None:
    client.send(POST)
    exchange, _ = await begun(server)
    client.writer.close()
    await until(lambda: not server.state.connections)
    exchange.answer(201, [], b"{}")


async def test_a_second_answer_to_one_request_is_dropped(server: Server, client: Client) -> None:
    client.send(POST)
    exchange, _ = await begun(server)
    exchange.answer(201, [], b"first")
    exchange.answer(503, [], b"second")
    assert (await client.answer())[::2] == (201, b"first")
    client.send(POST)
    (await begun(server))[0].answer(409, [], b"next")
    assert (await client.answer())[::2] == (409, b"next")


async def test_who_is_being_answered_when_the_server_stops_gets_the_answer(
    server: Server, client: Client
) -> None:
    client.send(POST)
    exchange, _ = await begun(server)
    server.protocols[0].shutdown()
    exchange.answer(201, [], b"{}")
    status, headers, _ = await client.answer()
    assert (status, headers[b"connection"]) == (201, b"close")
    assert await client.rest() == b""


async def test_a_resting_connection_is_closed_when_the_server_stops(server: Server, client: Client) -> None:
    client.send(POST)
    (await begun(server))[0].answer(201, [], b"{}")
    await client.answer()
    server.protocols[0].shutdown()
    assert await client.rest() == b""


async def test_a_connection_that_rests_too_long_is_closed_and_one_that_waits_is_not(
    server: Server, client: Client
) -> None:
    client.send(POST)
    exchange, _ = await begun(server)
    protocol = server.protocols[0]
    protocol.timeout_keep_alive = 0
    protocol.timeout_keep_alive_handler()
    exchange.answer(201, [], b"{}")
    assert (await client.answer())[0] == 201
    assert await client.rest() == b""


async def test_the_timer_looks_again_where_a_connection_was_busy_meanwhile(
    server: Server, client: Client
) -> None:
    client.send(POST)
    (await begun(server))[0].answer(201, [], b"{}")
    await client.answer()
    protocol = server.protocols[0]
    protocol.timeout_keep_alive_handler()
    assert protocol.timeout_keep_alive_task is not None
    assert not protocol.transport.is_closing()


async def test_a_client_that_does_not_read_is_not_written_to_without_end(
    server: Server, client: Client
) -> None:
    client.send(POST)
    exchange, _ = await begun(server)
    server.protocols[0].pause_writing()
    exchange.answer(201, [], b"{}")
    await client.answer()
    client.send(POST)
    async with asyncio.timeout(10):
        await server.app.asked.get()
    server.protocols[0].resume_writing()
    assert (await client.answer())[0] == 200


@pytest.mark.parametrize("closes", [True, False])
def test_an_answer_past_asgi_has_the_headers_of_one_through_it(closes: bool) -> None:
    own: Headers = [(b"x-ledger-seq", b"1-2"), (b"idempotent-replayed", b"true")]
    head, _, body = http_answer(201, b"id", own, b"{}", closes=closes).partition(b"\r\n\r\n")
    lines = [b"HTTP/1.1 201 Created", *(b"%b: %b" % header for header in json_headers(b"id", own, b"{}"))]
    assert head.split(b"\r\n") == [*lines, *([b"connection: close"] if closes else [])]
    assert body == b"{}"
