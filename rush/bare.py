"""A bare ASGI answer on the gateway's server settings: what the gateway's own work is measured against.

It reads the body of a request and sends always the same answer. The protocol class is uvicorn's own.
"""

from pathlib import Path

import msgspec
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.server import bind, server_config


class BareAnswer(msgspec.Struct):
    """What is answered."""

    status: int
    headers: list[tuple[str, str]]
    body: str


def run(port: int, answer_file: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    answer = msgspec.json.decode(Path(answer_file).read_bytes(), type=BareAnswer)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    start = {"type": "http.response.start", "status": answer.status, "headers": headers}
    body = {"type": "http.response.body", "body": answer.body.encode()}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        await send(start)
        await send(body)

    listener = bind("127.0.0.1", port)
    config = server_config(app, http=HttpToolsProtocol, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])
