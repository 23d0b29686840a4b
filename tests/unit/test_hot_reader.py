"""The reader of the hot path's answers: whole answers, whatever pieces they come in."""

import pytest

from loadtest.hot_reader import BODY_BYTES_MAX, Answer, AnswerReader, NotHttp, ReplayReader

Answers = list[Answer]

CREATED = b'HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nContent-Length: 11\r\n\r\n{"id":"x7"}'
REPLAYED = b"HTTP/1.1 201 Created\r\nIdempotent-Replayed: true\r\ncontent-length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\n\r\n"
NO_BODY = b"HTTP/1.1 204 No Content\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nt: u\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"

STREAM = CREATED + REPLAYED + REFUSED + NO_BODY + CONTINUE + CHUNKED + LAST
EXPECTED: Answers = [
    (201, b'{"id":"x7"}', False, True),
    (201, b"{}", True, True),
    (409, b"", False, True),
    (204, b"", False, True),
    (200, b"abcde", False, True),
    (503, b"no", False, False),
]


def reader(kind: type[AnswerReader] = ReplayReader) -> tuple[AnswerReader, Answers]:
    found: Answers = []
    return kind(found.append), found


def test_several_answers_in_one_read_are_all_taken_in_order() -> None:
    made, found = reader()
    made.feed(STREAM)
    assert found == EXPECTED


@pytest.mark.parametrize("split", range(1, len(STREAM)))
def test_every_split_position_gives_the_same_answers(split: int) -> None:
    made, found = reader()
    made.feed(STREAM[:split])
    made.feed(STREAM[split:])
    assert found == EXPECTED


def test_byte_by_byte_gives_the_same_answers() -> None:
    made, found = reader()
    for number in range(len(STREAM)):
        made.feed(STREAM[number : number + 1])
    assert found == EXPECTED


@pytest.mark.parametrize("cut", [1, 20, len(CREATED) - 11, len(CREATED) - 1])
def test_a_part_of_an_answer_is_no_answer(cut: int) -> None:
    made, found = reader()
    made.feed(CREATED[:cut])
    assert found == []


def test_the_cheap_reader_sees_no_replays_and_everything_else() -> None:
    made, found = reader(AnswerReader)
    made.feed(STREAM)
    assert found == [(status, body, False, stays) for status, body, _, stays in EXPECTED]


def test_a_replay_is_one_by_its_value_too_and_the_next_answer_is_none() -> None:
    made, found = reader()
    made.feed(REPLAYED.replace(b"true", b"nope") + REPLAYED + CREATED)
    assert [is_replay for _, _, is_replay, _ in found] == [False, True, False]


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00\x01\x02",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab",
        b"HTTP/1.1 201 Created\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Length : 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        CREATED + b"}",
        LAST + CREATED,
    ],
)
def test_what_is_not_http_is_refused_with_words(garbage: bytes) -> None:
    made, _ = reader()
    with pytest.raises(NotHttp) as refused:
        made.feed(garbage)
    assert str(refused.value)


def test_an_answer_without_end_is_refused() -> None:
    made, found = reader()
    made.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
    for _ in range(BODY_BYTES_MAX // 65_536):
        made.feed(b"x" * 65_536)
    with pytest.raises(NotHttp, match="more than"):
        made.feed(b"x")
    assert found == []
