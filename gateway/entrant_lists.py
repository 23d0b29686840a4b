"""The entrants of a draw as text: one pseudonym a line, in the order of their numbers.

A million of them are 65 MB, of which a page at a time is in this process. Whoever does not read is dropped,
and a list that broke off is shorter than it was announced.
"""

import asyncio
import logging
from typing import Any

from starlette.types import Receive, Scope, Send

from engine.errors import InvalidState, Overloaded
from engine.failpoints import failpoint
from engine.stores import POSTGRES_ERRORS, Stores
from engine.waiting.entrants import Lottery, leaf_pages
from gateway.wire import TEXT_HEADERS

log = logging.getLogger(__name__)

LISTS_MAX = 4
"""So many are sent by one process at a time: each page is some milliseconds of computing."""
SEND_TIMEOUT_S = 20.0
LINE_BYTES = 65


class EntrantLists:
    """The lists that this process sends."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._sent = 0

    def check(self, lottery: Lottery) -> None:
        """Raise InvalidState where there is no list yet, Overloaded where too many are being sent."""
        if lottery.root is None:
            raise InvalidState("The entrants are not frozen yet", details={"status": "registered"})
        if self._sent >= LISTS_MAX:
            raise Overloaded("Too many are reading the list of entrants: come again in a moment")

    async def serve(
        self, lottery: Lottery, scope: Scope, receive: Receive, send: Send, request_id: bytes
    ) -> None:
        """Send the list; it breaks off where Postgres goes away or the client does."""
        self._sent += 1
        gone = asyncio.ensure_future(receive())
        try:
            await self._pages(lottery, gone, scope["method"] == "HEAD", send, request_id)
        except (TimeoutError, *POSTGRES_ERRORS) as error:
            log.warning("a list of entrants broke off: %s: %s", type(error).__name__, error)
        finally:
            self._sent -= 1
            gone.cancel()

    async def _pages(
        self, lottery: Lottery, gone: asyncio.Future[Any], is_head: bool, send: Send, request_id: bytes
    ) -> None:
        length = b"%d" % (LINE_BYTES * (lottery.entrants or 0))
        headers = [(b"content-length", length), (b"x-request-id", request_id), *TEXT_HEADERS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        failpoint("entrant_lists.after_head")
        if not is_head:
            async for leaves in leaf_pages(self._stores, lottery):
                if gone.done():
                    return
                body = "".join([f"{leaf.hex()}\n" for leaf in leaves]).encode()
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                failpoint("entrant_lists.after_page")
        await send({"type": "http.response.body", "body": b""})
        failpoint("entrant_lists.after_list")
