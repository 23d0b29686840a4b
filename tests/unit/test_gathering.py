"""Reservations of one tick: how they are gathered, and that each has its own answer and its own failure."""

import asyncio
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.errors import Fenced, OutcomeUnknown, Overloaded, StoreUnavailable
from engine.gathering import GATHERED_MAX, Gathering, Request
from engine.hotline import RedisReplyError
from engine.ids import CellId
from engine.keys import CellKeys
from engine.scripts import ScriptFailed, Scripts
from engine.status import Status
from engine.stores import Stores

CELLS = [CellKeys(CellId(number, 0)) for number in (1, 2)]
FIXED_KEYS = 7


class Line:
    """A hot line whose replies the test gives."""

    def __init__(self) -> None:
        self.connected = True
        self.calls: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self.flushed = 0
        self.refusal: Exception | None = None

    def call(self, *arguments: Any) -> asyncio.Future[Any]:
        """Take a call, or refuse it as the line does."""
        if self.refusal is not None:
            raise self.refusal
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.calls.append((arguments, future))
        return future

    def flush(self) -> None:
        """Count the writes."""
        self.flushed += 1


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def gathering(line: Line) -> Gathering:
    scripts = Scripts()
    stores = SimpleNamespace(
        line=line,
        scripts=scripts,
        settings=SimpleNamespace(hot_line_in_flight_max=40),
        script_failed=lambda name, error: ScriptFailed(scripts[name].locate(str(error))),
    )
    return Gathering(cast(Stores, stores), 3_000, 20)


Ask = Callable[..., list[asyncio.Future[Any]]]


@pytest.fixture
def ask(gathering: Gathering) -> Ask:
    def ask(count: int, cell: int = 0, zones: tuple[str, ...] = ("Z",)) -> list[asyncio.Future[Any]]:
        futures = []
        for number in range(count):
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            wanted = tuple(part for zone in zones for part in (zone, "", 1))
            keys = tuple(f"key of {zone}" for zone in zones)
            replied = partial(_settle, future)
            user, booking = f"user {number}", f"booking {number}"
            gathering.add(CELLS[cell], Request(user, booking, "", len(zones), wanted, keys, replied))
            futures.append(future)
        return futures

    return ask


def _settle(future: asyncio.Future[Any], booking: str, answer: Any) -> None:
    assert booking.startswith("booking ")
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


async def turn() -> None:
    """Let the loop come to the end of this tick, and of the next."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def answers(count: int) -> list[list[Any]]:
    return [[int(Status.OK), f"1-{number}".encode()] for number in range(count)]


async def test_the_requests_of_a_tick_go_in_one_call_and_their_answers_come_back_in_order(
    line: Line, ask: Ask
) -> None:
    futures = ask(3) + ask(1, zones=("Z", "Y"))
    assert line.calls == [], "the tick is not over"
    await turn()
    [(arguments, reply)] = line.calls
    assert line.flushed == 1
    command, _, key_count, *rest = arguments
    keys, values = rest[:key_count], rest[key_count:]
    assert command == "EVALSHA"
    assert keys[FIXED_KEYS:][:2] == [CELLS[0].rate("user 0"), CELLS[0].booking("booking 0")]
    assert keys[FIXED_KEYS + 2 * 4 :] == ["key of Z", "key of Y"], "each zone once"
    assert values[:4] == [4, 3_000, 20, 32]
    assert values[4:12] == ["user 0", "booking 0", "", "", 1, "Z", "", 1]
    reply.set_result(answers(4))
    assert await asyncio.gather(*futures) == answers(4)


async def test_a_call_takes_so_many_and_no_more_and_each_cell_has_its_own(line: Line, ask: Ask) -> None:
    futures = ask(GATHERED_MAX + 1) + ask(1, cell=1)
    await turn()
    assert [arguments[3] for arguments, _ in line.calls] == [CELLS[0].sale, CELLS[0].sale, CELLS[1].sale]
    for arguments, reply in line.calls:
        count = arguments[3 + arguments[2]]
        reply.set_result(answers(count))
    assert len(await asyncio.gather(*futures)) == GATHERED_MAX + 2


async def test_a_full_call_does_not_wait_for_the_end_of_the_tick(line: Line, ask: Ask) -> None:
    ask(GATHERED_MAX - 1)
    assert line.calls == []
    ask(1)
    assert len(line.calls) == line.flushed == 1
    ask(1)
    await turn()
    assert [arguments[3 + arguments[2]] for arguments, _ in line.calls] == [GATHERED_MAX, 1]


@pytest.mark.parametrize("error", [OutcomeUnknown(), StoreUnavailable(), Fenced()])
async def test_what_happens_to_a_call_happens_to_each_of_its_requests(
    line: Line, ask: Ask, error: Exception
) -> None:
    futures = ask(3)
    await turn()
    line.calls[0][1].set_exception(error)
    await turn()
    failures = [future.exception() for future in futures]
    assert {type(failure) for failure in failures} == {type(error)}
    assert len({id(failure) for failure in failures}) == 3, "each has its own"


async def test_a_request_that_the_script_could_not_answer_fails_alone_and_those_behind_it_were_not_sent(
    line: Line, ask: Ask
) -> None:
    first, broken, behind = ask(3)
    await turn()
    line.calls[0][1].set_result([*answers(1), RedisReplyError("user_script:1: attempt to add a nil")])
    assert await first == answers(1)[0]
    with pytest.raises(ScriptFailed, match=r"lua/reserve\.lua"):
        await broken
    with pytest.raises(StoreUnavailable):
        await behind


async def test_an_answer_that_cannot_be_handed_over_keeps_nobody_else_waiting(
    line: Line, gathering: Gathering, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(booking: str, answer: Any) -> None:
        raise RuntimeError("its connection is in a state that nobody thought of")

    gathering.add(CELLS[0], Request("user", "the broken one", "", 1, ("Z", "", 1), ("key of Z",), broken))
    [behind] = ask(1)
    await turn()
    line.calls[0][1].set_result(answers(2))
    assert await behind == answers(2)[1]
    assert "the broken one" in caplog.text


async def test_a_call_that_is_cancelled_is_an_outcome_unknown_to_all(line: Line, ask: Ask) -> None:
    futures = ask(2)
    await turn()
    line.calls[0][1].cancel()
    await turn()
    assert [type(future.exception()) for future in futures] == [OutcomeUnknown] * 2


async def test_a_script_that_fails_as_a_whole_says_where(line: Line, ask: Ask) -> None:
    [future] = ask(1)
    await turn()
    line.calls[0][1].set_exception(RedisReplyError("ERR user_script:1: attempt to add a nil"))
    with pytest.raises(ScriptFailed, match=r"lua/reserve\.lua"):
        await future


async def test_a_line_that_refuses_the_call_refuses_its_requests(line: Line, ask: Ask) -> None:
    line.refusal = Overloaded()
    [future] = ask(1)
    await turn()
    with pytest.raises(Overloaded):
        await future
    line.refusal = None
    assert len(ask(40)) == 40, "nobody waits any more"


async def test_no_more_wait_than_may(line: Line, ask: Ask) -> None:
    ask(40)
    with pytest.raises(Overloaded):
        ask(1)
    await turn()
    for arguments, reply in line.calls:
        reply.set_result(answers(arguments[3 + arguments[2]]))
    await turn()
    assert len(ask(1)) == 1


async def test_without_a_connection_the_answer_is_at_once(line: Line, ask: Ask) -> None:
    line.connected = False
    with pytest.raises(StoreUnavailable):
        ask(1)
