"""The load on the hot path against a server that misbehaves: everything sent has an outcome."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

import gevent  # type: ignore[import-untyped]
import msgspec
import pytest

from loadtest import hot_crowd
from loadtest.hot_crowd import HotCrowd
from loadtest.hot_plan import HotPlan, HotResult, ids_path, latencies_path, read_latencies, result_path

BOUND_S = 20


def created() -> bytes:
    body = b'{"success":true,"data":{"id":"%s"}}' % str(uuid4()).encode()
    return b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


class Server:
    """Answers the n-th request (from 1) with `answer(n)`; what that gives is sent, None closes."""

    def __init__(self, answer: Callable[[int], Sequence[bytes] | None]) -> None:
        self._answer = answer
        self.seen: list[bytes] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._links: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                self._links.append(link)
                thread = threading.Thread(target=self._serve, args=(link,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, link: socket.socket) -> None:
        rest = b""
        with contextlib.suppress(OSError), link:
            while received := link.recv(65_536):
                rest += received
                while b"\r\n\r\n" in rest and rest.endswith(b"}"):
                    with self._lock:
                        self.seen.append(rest)
                        pieces = self._answer(len(self.seen))
                    rest = b""
                    if pieces is None:
                        return
                    for piece in pieces:
                        link.sendall(piece)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()
        for thread in self._threads:
            thread.join(BOUND_S)


class Told:
    """What Locust would have been told."""

    def __init__(self) -> None:
        self.good: list[tuple[str, int]] = []
        self.bad: list[tuple[str, str]] = []

    def answered(self, name: str, latencies_ms: Sequence[float], length: int) -> None:
        self.good.append((name, len(latencies_ms)))

    def failed(self, name: str, latency_ms: float, reason: str) -> None:
        self.bad.append((name, reason))


@pytest.fixture
def served() -> Iterator[Callable[[Callable[[int], Sequence[bytes] | None]], Server]]:
    with contextlib.ExitStack() as stack:

        def start(answer: Callable[[int], Sequence[bytes] | None]) -> Server:
            server = Server(answer)
            stack.callback(server.close)
            return server

        yield start


def load(
    folder: Path, server: Server, *, mode: Literal["open", "closed"] = "closed", **changes: Any
) -> tuple[HotResult, Told]:
    fields: dict[str, Any] = {
        "connections": 1,
        "rate_per_s": 50.0,
        "seconds": 1.0,
        "requests": 20,
    }
    plan = HotPlan(
        phase="test",
        host="127.0.0.1",
        port=server.port,
        folder=str(folder),
        jwt_secret="x" * 32,
        zone_id=UUID(int=1),
        seed=1,
        processes=1,
        mode=mode,
        **(fields | changes),
    )
    told = Told()
    crowd = HotCrowd(plan, 0, told)

    def user() -> None:
        while not crowd.is_over:
            crowd.hold_connection()

    users = [gevent.spawn(user) for _ in range(plan.connections)]
    with gevent.Timeout(BOUND_S):
        crowd.run()
    gevent.killall(users)
    gevent.sleep(0)
    return msgspec.json.decode(result_path(folder, 0).read_bytes(), type=HotResult), told


def test_every_prepared_request_is_sent_once_and_accepted(tmp_path: Path, served: Any) -> None:
    server = served(lambda _: [created()])
    result, told = load(tmp_path, server, connections=3)
    assert (result.sent, result.accepted, result.errors, result.is_used_up) == (20, 20, {}, True)
    assert len(set(server.seen)) == 20, "each has a user, a token and a key of its own"
    assert sum(count for _, count in told.good) == 20
    assert {name for name, _ in told.good} == {"reserve"}
    assert len(read_latencies(latencies_path(tmp_path, 0))) == 20
    assert len(set(ids_path(tmp_path, 0).read_text())) > 1
    assert ids_path(tmp_path, 0).stat().st_size == 20 * 36


def test_an_open_loop_sends_what_is_due_also_when_answers_are_slow(tmp_path: Path, served: Any) -> None:
    hold = threading.Event()
    threading.Timer(0.5, hold.set).start()
    server = served(lambda _: hold.wait(BOUND_S) and [created()])
    result, _ = load(tmp_path, server, mode="open", requests=50)
    assert (result.sent, result.accepted, result.errors) == (50, 50, {})
    assert result.late_max_ms > 100, "who waits for a free connection has waited since they were due"


def test_an_answer_in_many_pieces_is_one_answer(tmp_path: Path, served: Any) -> None:
    def pieces(_: int) -> list[bytes]:
        whole = created()
        return [whole[at : at + 7] for at in range(0, len(whole), 7)]

    result, told = load(tmp_path, served(pieces))
    assert (result.accepted, result.errors, told.bad) == (20, {}, [])


def test_a_connection_that_the_server_closes_leaves_one_unknown_outcome(tmp_path: Path, served: Any) -> None:
    server = served(lambda number: None if number == 5 else [created()])
    result, told = load(tmp_path, server)
    unknown = "unknown: the server closed the connection"
    assert (result.sent, result.accepted, result.errors) == (20, 19, {unknown: 1})
    assert [name for name, _ in told.bad] == [unknown]


def test_half_an_answer_is_an_unknown_outcome(tmp_path: Path, served: Any) -> None:
    class HalfAnswer(Server):
        def _serve(self, link: socket.socket) -> None:
            with contextlib.suppress(OSError), link:
                if link.recv(65_536):
                    link.sendall(created()[:40])

    server = HalfAnswer(lambda _: None)
    try:
        result, _ = load(tmp_path, server, requests=3)
    finally:
        server.close()
    assert (result.accepted, result.errors) == (0, {"unknown: the server closed the connection": 3})


def test_a_server_that_closes_after_its_answer_costs_a_connection_and_no_outcome(
    tmp_path: Path, served: Any
) -> None:
    def polite(_: int) -> list[bytes]:
        return [created().replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1)]

    result, told = load(tmp_path, served(polite))
    assert (result.sent, result.accepted, result.errors, told.bad) == (20, 20, {}, [])


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (b"garbage\r\n\r\n", "unknown: the answer is not HTTP"),
        (created() + created(), "unknown: an answer that nobody asked for"),
    ],
    ids=["garbage", "two answers"],
)
def test_what_is_no_answer_is_an_error(tmp_path: Path, served: Any, wrong: bytes, kind: str) -> None:
    server = served(lambda number: [wrong] if number == 5 else [created()])
    result, told = load(tmp_path, server)
    assert (result.sent, result.accepted, result.errors) == (20, 19, {kind: 1})
    assert [name for name, _ in told.bad] == [kind]


def test_another_status_is_an_error_and_named_by_its_code(tmp_path: Path, served: Any) -> None:
    body = b'{"success":false,"error":{"code":"RATE_LIMITED"}}'
    refusal = b"HTTP/1.1 429 No\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    server = served(lambda number: [refusal] if number % 2 else [created()])
    result, told = load(tmp_path, server)
    assert (result.accepted, result.errors) == (10, {"reserve: 429 RATE_LIMITED": 10})
    assert told.bad[0] == ("reserve: 429 RATE_LIMITED", "was answered reserve: 429 RATE_LIMITED")


def test_nobody_there_is_an_error_and_ends_in_time(
    tmp_path: Path, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_crowd, "CONNECT_ALL_S", 0.2)
    monkeypatch.setattr(hot_crowd, "ANSWER_TIMEOUT_S", 0.2)
    server = served(lambda _: None)
    server.close()
    result, told = load(tmp_path, server, requests=5, mode="open", rate_per_s=5.0)
    assert result.accepted == 0
    assert set(result.errors) == {"no connection", "never sent"}
    assert told.bad
