"""One gateway process: uvicorn on a socket of its own.

Every process binds the same port with SO_REUSEPORT, and the kernel spreads the connections.
"""

import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine.errors import ValidationFailed
from engine.settings import Settings
from gateway.app import create_app
from gateway.errors import render
from gateway.wire import new_request_id, plain_http

BACKLOG = 4096
SHUTDOWN_TIMEOUT_S = 10
"""More than a confirm waits: who is being answered gets the answer."""
KEEP_ALIVE_TIMEOUT_S = 30


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which answers what is not HTTP in the contract's envelope too."""

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that the parser does not take, and close."""
        status, _, body = render(ValidationFailed("request", "is not HTTP/1.1"))
        self.transport.write(plain_http(new_request_id(), status, body))
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[int], None] | None, port: int) -> None:
        super().__init__(config)
        self._ready = ready
        self._port = port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the services and listen."""
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready(self._port)


def run(settings: Settings, *, port: int | None = None, ready: Callable[[int], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is being answered and return.

    `port` overrides the setting, 0 takes a free one; `ready` is called with it once the process listens.
    Raises OSError where the address cannot be bound.
    """
    listener = bind(settings.host, settings.port if port is None else port)
    config = uvicorn.Config(
        create_app(settings),
        loop="uvloop",
        http=_Protocol,
        ws="none",
        lifespan="on",
        backlog=BACKLOG,
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_TIMEOUT_S,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
    # When it has stopped, uvicorn raises the signal that stopped it once more, for whoever handled it
    # before: without a handler the process would be killed by it instead of ending well.
    before = {number: signal.signal(number, _stopped) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _Server(config, ready, listener.getsockname()[1]).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listener.close()


def bind(host: str, port: int) -> socket.socket:
    """A bound TCP socket that shares its port with other processes; raises OSError."""
    [family, kind, protocol, _, address], *_ = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _stopped(number: int, frame: FrameType | None) -> None:
    """The process is on its way out already."""
