"""One gateway process: uvicorn on a socket of its own.

Every process binds the same port with SO_REUSEPORT, and the kernel spreads the connections.
"""

import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Literal

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine import failpoints
from engine.settings import Settings
from gateway.app import create_app
from gateway.protocol import GatewayProtocol

BACKLOG = 4096
SHUTDOWN_TIMEOUT_S = 10
"""More than a confirm waits: who is being answered gets the answer."""
KEEP_ALIVE_TIMEOUT_S = 30


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
    failpoints.arm(settings.failpoint)
    listener = bind(settings.host, settings.port if port is None else port)
    config = server_config(create_app(settings))
    # When it has stopped, uvicorn raises the signal that stopped it once more, for whoever handled it
    # before: without a handler the process would be killed by it instead of ending well.
    before = {number: signal.signal(number, _stopped) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _Server(config, ready, listener.getsockname()[1]).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listener.close()


def server_config(
    app: ASGIApp, *, http: type[HttpToolsProtocol] = GatewayProtocol, lifespan: Literal["on", "off"] = "on"
) -> uvicorn.Config:
    """How every application of ours is served; a benchmark serves a bare one in the same way."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=http,
        ws="none",
        lifespan=lifespan,
        backlog=BACKLOG,
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_TIMEOUT_S,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )


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
