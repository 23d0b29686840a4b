"""The first buyers of a benchmark: they buy the small zone, one after the other, and show an answer."""

import socket

import msgspec

from loadtest.hot_reader import Answer, AnswerReader
from loadtest.organizer import TargetError

TIMEOUT_S = 15.0
RECEIVE_BYTES = 65_536


class FirstAnswer(msgspec.Struct, frozen=True):
    """A 201 as the gateway sends it."""

    headers: list[tuple[str, str]]
    body: bytes
    size: int
    """Of the whole answer, in bytes."""


def buy(host: str, port: int, requests: list[bytes]) -> FirstAnswer:
    """Send all requests; each must be answered 201. The first answer. Raises TargetError."""
    answers: list[Answer] = []
    reader = AnswerReader(answers.append)
    first = b""
    with socket.create_connection((host, port), TIMEOUT_S) as link:
        for number, request in enumerate(requests):
            link.sendall(request)
            while len(answers) <= number:
                received = link.recv(RECEIVE_BYTES)
                if not received:
                    raise TargetError("the gateway closed the connection")
                if number == 0:
                    first += received
                reader.feed(received)
            status, body, _, _ = answers[number]
            if status != 201:
                raise TargetError(
                    f"a reservation was answered {status}: {body[:300].decode(errors='replace')}"
                )
    head = first.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in head)]
    return FirstAnswer(headers, answers[0][1], len(first))
