"""What Redis refuses, and what the hot line makes of it."""

import pytest

from engine.errors import Fenced, RushError, StoreUnavailable
from engine.hotline import RedisReplyError
from tests.scripted_redis import Connect, ScriptedRedis, outcome, outcomes, until


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"NOSCRIPT No matching script.", Fenced),
        (b"OOM command not allowed when used memory > 'maxmemory'.", StoreUnavailable),
        (b"MISCONF Redis is configured to save RDB snapshots", StoreUnavailable),
        (b"READONLY You can't write against a read only replica.", StoreUnavailable),
        (b"NOREPLICAS Not enough good replicas to write.", StoreUnavailable),
        (b"LOADING Redis is loading the dataset in memory", StoreUnavailable),
        (b"BUSY Redis is busy running a script.", StoreUnavailable),
        (b"CLUSTERDOWN The cluster is down", StoreUnavailable),
        (b"MASTERDOWN Link with MASTER is down", StoreUnavailable),
        (b"ERR unknown command", RedisReplyError),
        (b"BUSYKEY Target key name already exists.", RedisReplyError),
        (b"WRONGTYPE Operation against a key", RedisReplyError),
        (b"\xff\xfe", RedisReplyError),
        (b"", RedisReplyError),
    ],
)
async def test_an_error_reply_becomes_what_it_says_and_fails_its_own_call_only(
    server: ScriptedRedis, connect: Connect, reply: bytes, error: type[Exception]
) -> None:
    line = await connect()
    futures = [line.call("X", number) for number in range(3)]
    await server.received(3)
    server.send(b":0\r\n-" + reply + b"\r\n:2\r\n")
    with pytest.raises(error) as caught:
        await futures[1]
    if isinstance(caught.value, RushError):
        assert type(caught.value) is error
        assert str(caught.value) == (error.__doc__ or "").splitlines()[0]
        assert caught.value.__notes__ == [reply.decode()]
    assert await outcomes(futures[0], futures[2]) == [0, 2]


async def test_a_demoted_master_is_left_once_it_has_answered_what_is_in_flight(
    server: ScriptedRedis, connect: Connect
) -> None:
    line = await connect()
    futures = [line.call("X", number) for number in range(2)]
    await server.received(2)
    old = server.writer
    server.send(b"-READONLY You can't write against a read only replica.\r\n")
    assert await outcome(futures[0]) is StoreUnavailable
    with pytest.raises(StoreUnavailable):
        line.call("X")
    assert old is not None
    old.write(b":2\r\n")
    assert await futures[1] == 2
    await until(lambda: line.connected)
    assert server.connections == 2
