"""Requests of one loop tick, gathered: those of one cell go to Redis in as few script calls as possible,
each as soon as it is full.

What many requests of a rush have in common (the cell, its clock, the zones) is read and written once a call
instead of once a request. Each request has its own answer all the same, and its own failure.
"""

import asyncio
import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from engine.errors import OutcomeUnknown, Overloaded, RushError, StoreUnavailable
from engine.failpoints import failpoint
from engine.hotline import RedisReplyError
from engine.keys import CellKeys
from engine.stores import Stores

log = logging.getLogger(__name__)

GATHERED_MAX = 16
"""Reservations in one call: while a script runs, Redis serves nobody else."""
TAKE_BACK_MAX = 32
"""Due holds that one call takes back at most."""
FIXED_KEYS = 7
"""Keys of lua/reserve.lua in front of those of the requests."""

Replied = Callable[[str, Any], None]
"""Who is told of a request's answer, once: (booking or user id, `[status, at, ...]` or an exception). A
function and not a future: each of a tick's futures would have to be woken by the loop."""


class Asked(Protocol):
    """What can be gathered."""

    @property
    def about(self) -> str:
        """The id that the answer is given with."""

    @property
    def replied(self) -> Replied:
        """Who is told."""


AnyAsked = TypeVar("AnyAsked", bound=Asked)


class Gatherer(ABC, Generic[AnyAsked]):
    """The requests of one kind that this process is about to send."""

    script: ClassVar[str]
    gathered_max: ClassVar[int]

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._line = stores.line
        self._sha = stores.scripts[self.script].sha
        self._requests_max = stores.settings.hot_line_in_flight_max
        self._fresh: dict[CellKeys, list[AnyAsked]] = {}
        self._waiting = 0

    @abstractmethod
    def _of_call(self, keys: CellKeys, requests: Sequence[AnyAsked]) -> Sequence[str | bytes | int]:
        """What EVALSHA is given behind the script: the number of keys, the keys, the arguments."""

    def add(self, keys: CellKeys, request: AnyAsked) -> None:
        """Send a request with others of this tick. It is answered `[status, at, ...]` of the script, or what
        a future of `HotLine.call` fails with, or ScriptFailed.

        Raises StoreUnavailable when not connected and Overloaded when too many wait for an answer.
        """
        if not self._line.connected:
            raise StoreUnavailable
        if self._waiting >= self._requests_max:
            raise Overloaded
        if not self._fresh:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting += 1
        of_cell = self._fresh.get(keys)
        if of_cell is None:
            self._fresh[keys] = [request]
        else:
            of_cell.append(request)
            if len(of_cell) == self.gathered_max:
                # Redis works on these while others are still being read.
                del self._fresh[keys]
                self._call(keys, of_cell)
                self._line.flush()

    def _send(self) -> None:
        fresh, self._fresh = self._fresh, {}
        for keys, requests in fresh.items():
            self._call(keys, requests)
        self._line.flush()

    def _call(self, keys: CellKeys, requests: list[AnyAsked]) -> None:
        try:
            reply = self._line.call("EVALSHA", self._sha, *self._of_call(keys, requests))
        except RushError as error:
            self._waiting -= len(requests)
            _fail(requests, error)
        else:
            failpoint("gathering.after_asking")
            reply.add_done_callback(partial(self._answered, requests))

    def _answered(self, requests: Sequence[AnyAsked], reply: asyncio.Future[Any]) -> None:
        failpoint("gathering.after_reply")
        self._waiting -= len(requests)
        try:
            answers = reply.result()
        except RedisReplyError as error:
            _fail(requests, self._stores.script_failed(self.script, error))
            return
        # Everybody must have an answer, whatever it was that went wrong.
        except asyncio.CancelledError:
            _fail(requests, OutcomeUnknown())
            return
        except Exception as error:
            _fail(requests, error)
            return
        for request, answer in zip(requests, answers, strict=False):
            if isinstance(answer, RedisReplyError):
                _tell(request, self._stores.script_failed(self.script, answer))
            else:
                _tell(request, answer)
        # The script stopped at a request that failed: nothing was done for those behind it.
        if len(answers) < len(requests):
            _fail(requests[len(answers) :], StoreUnavailable())


def _tell(request: Asked, answer: Any) -> None:
    try:
        request.replied(request.about, answer)
    except Exception:
        # It must not keep the others of its call from being told.
        log.exception("the answer to %s could not be handed over", request.about)


def _fail(requests: Sequence[Asked], error: Exception) -> None:
    for request in requests:
        # Each has its own: a traceback grows with everybody who raises it.
        _tell(request, copy.copy(error))


class Request(NamedTuple):
    """One reservation as the script takes it."""

    user: str
    about: str
    """The booking."""
    fingerprint: str
    items: int
    arguments: tuple[str | int, ...]
    """Zone, show or "", quantity, for each item."""
    zone_keys: tuple[str, ...]
    replied: Replied
    queue_pass: str = ""
    """When the pass of the waiting room that was shown runs out, in ms; "" without one, "-" for one that is
    none of ours."""


class Gathering(Gatherer[Request]):
    """The reservations that this process is about to send."""

    script = "reserve"
    gathered_max = GATHERED_MAX

    def __init__(self, stores: Stores, rate_interval_ms: int, rate_burst: int) -> None:
        super().__init__(stores)
        self._fixed = (rate_interval_ms, rate_burst, TAKE_BACK_MAX)

    def _of_call(self, keys: CellKeys, requests: Sequence[Request]) -> Sequence[str | bytes | int]:
        own_keys: list[str] = []
        zone_keys: dict[str, None] = {}
        arguments: list[str | int] = []
        for user, booking, fingerprint, items, wanted, zones, _, queue_pass in requests:
            own_keys += (keys.rate_prefix + user, keys.booking_prefix + booking)
            for zone in zones:
                zone_keys[zone] = None
            arguments += (user, booking, fingerprint, queue_pass, items, *wanted)
        return (
            FIXED_KEYS + len(own_keys) + len(zone_keys),
            keys.sale,
            keys.buyers,
            keys.ledger,
            keys.deadlines,
            keys.passes,
            keys.spent,
            keys.queue,
            *own_keys,
            *zone_keys,
            len(requests),
            *self._fixed,
            *arguments,
        )
