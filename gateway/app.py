"""The composition root of a gateway process."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from engine.settings import Settings
from gateway import openapi
from gateway.addresses import ClientAddresses
from gateway.endpoint import Endpoint, NotFoundEndpoint
from gateway.hot import HotRoute
from gateway.limits import PublicReads
from gateway.operation import Operation
from gateway.queue import JoinEndpoint, StatusEndpoint
from gateway.reserve import ReserveEndpoint
from gateway.routes import OPERATIONS
from gateway.services import Gateway, Services, open_services

ServicesOpener = Callable[[Settings], AbstractAsyncContextManager[Services]]


class Application(Starlette):
    """Starlette without its middlewares: every endpoint answers for its own exceptions, and the hot
    route is to pass through nothing that it does not need."""

    hot: dict[bytes, HotRoute]
    """Where gateway/protocol.py hands the requests of hot routes, by their URL."""

    end_streams: Callable[[], None]
    """Called when the server stops, before it waits for what is being answered: streams go on for ever."""

    def build_middleware_stack(self) -> ASGIApp:
        """The router itself."""
        return self.router


def create_app(settings: Settings, opener: ServicesOpener = open_services) -> Application:
    """The application; its lifespan opens the services, of which tests may bring their own."""
    gateway = Gateway(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with opener(settings) as services:
            gateway.services = services
            yield

    hot = [ReserveEndpoint(gateway), JoinEndpoint(gateway), StatusEndpoint(gateway)]
    app = Application(routes=_routes(gateway, hot), lifespan=lifespan)
    app.hot = {route.url: route for route in hot}
    app.end_streams = gateway.end_streams
    app.router.redirect_slashes = False
    app.router.default = NotFoundEndpoint()
    return app


def _routes(gateway: Gateway, hot: Sequence[HotRoute]) -> list[BaseRoute]:
    """One Starlette route for each path, whose endpoint knows the path's methods."""
    addresses = ClientAddresses(gateway.settings.trusted_proxies)
    public_reads = PublicReads(gateway.settings)
    by_path: dict[str, list[Operation]] = {}
    for operation in (*OPERATIONS, openapi.operation(OPERATIONS)):
        by_path.setdefault(operation.path, []).append(operation)
    routes: list[BaseRoute] = []
    for path, operations in by_path.items():
        endpoint: ASGIApp
        if operations[0].handler is None:
            endpoint = next(route for route in hot if route.path == path)
        else:
            endpoint = Endpoint(gateway, operations, addresses, public_reads)
        routes.append(Route(path, endpoint))
    return routes
