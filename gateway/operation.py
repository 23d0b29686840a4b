"""One row of the route table, and what its handler is given and gives back."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal
from uuid import UUID

import msgspec
from starlette.types import Receive, Scope, Send

from engine.tokens import Claims
from gateway.answers import Paging
from gateway.decode import Nothing, decode_id_or_slug
from gateway.errors import Headers
from gateway.forms import PageQuery
from gateway.services import Services
from gateway.tickets import ShownTicket
from gateway.wire import Head, Page

Auth = Literal["none", "user", "organizer", "ticket", "user and ticket"]
"""Who may call: anybody, whoever has a token, organizers and admins, whoever has a queue ticket, or a token
and an own ticket."""
PathId = Literal["uuid", "uuid or slug", "file"]


class NoQuery(msgspec.Struct):
    """A call without query parameters."""


Stream = Callable[[Scope, Receive, Send, bytes], Awaitable[None]]
"""Sends an answer that goes on, with this request id."""


class Reply(msgspec.Struct):
    """What a handler gives back: the data of the answer, or a ready page."""

    data: Any = None
    status: int | None = None
    """Where it is not the operation's usual one."""
    paging: Paging | None = None
    headers: Headers = []
    page: Page | None = None
    stream: Stream | None = None


class Call(msgspec.Struct):
    """What a handler is given: everything is decoded and checked as far as it can be without a store."""

    services: Services
    claims: Claims | None
    ticket: ShownTicket | None
    head: Head
    address: str
    path_text: str
    path_id: UUID | None
    body: Any
    query: Any

    @property
    def user(self) -> Claims:
        """Whose token it is, where the operation asks for one."""
        assert self.claims is not None
        return self.claims

    @property
    def queue_ticket(self) -> ShownTicket:
        """The queue ticket, where the operation asks for one."""
        assert self.ticket is not None
        return self.ticket

    @property
    def id(self) -> UUID:
        """The id in the path, where the operation has one."""
        assert self.path_id is not None
        return self.path_id

    @property
    def id_or_slug(self) -> UUID | str:
        """The id or the slug in the path; raises ValidationFailed."""
        return decode_id_or_slug(self.path_text)

    def list_reply(self, rows: Sequence[Any], total: int) -> Reply:
        """A page of a list."""
        query: PageQuery = self.query
        return Reply(data=rows, paging=Paging(query.page, query.per_page, total))


Handler = Callable[[Call], Awaitable[Reply]]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A method of a path: which handler, forms, role and status. Routes and openapi.json are made of it."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    handler: Handler | None
    """None for a hot route, which is an ASGI application of its own."""
    summary: str
    tag: str
    body: type[msgspec.Struct] = Nothing
    query: type[msgspec.Struct] = NoQuery
    answer: type[msgspec.Struct] | None = None
    """None: no body (204), or a page that is not JSON of ours."""
    is_list: bool = False
    auth: Auth = "none"
    status: int = 200
    path_id: PathId = "uuid"
    headers: tuple[str, ...] = ()
    """Request headers of its own, as openapi.py describes them."""
    is_stream: bool = False
    refusals: tuple[str, ...] = ()
    """Codes of the error table that are this operation's own."""

    @property
    def needs_body(self) -> bool:
        """Whether a request without a body is refused."""
        return self.body is not Nothing
