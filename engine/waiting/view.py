"""What a process knows of a queue: one look at Redis a second for each event that somebody asks for.

However many people poll, they are answered from the last look.
"""

import asyncio
import copy
import time
from bisect import bisect_left
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from engine.cells import CellDirectory
from engine.errors import Fenced, NotFound, Overloaded, RushError, StoreUnavailable
from engine.ids import CellId
from engine.keys import CellKeys
from engine.redis_clients import REDIS_ERRORS
from engine.stores import Stores
from engine.waiting.estimate import Outlook, Pace, Stock, outlook, pace
from engine.waiting.gone import Gone
from engine.waiting.lottery import Permutation, permutation
from engine.waiting.settings import US_PER_S

REFRESH_INTERVAL_S = 1.0
READ_TIMEOUT_S = 1.0
AGE_MAX_S = 3.0
"""So old a look is still told while Redis does not answer."""
UNASKED_MAX_S = 60.0
VIEWS_MAX = 1_000
AHEAD_MAX = 1 << 32
BASKET_MILLI = 2_000
"""Until admission has said what people take."""

_SALE = (
    "epoch", "status", "sale_start_at_ms", "sale_end_at_ms", "queue_mode", "queue_opens_at_ms",
    "queue_interval_us", "queue_passes_max", "queue_paused", "zones",
)  # fmt: skip
_QUEUE = (
    "tail", "entrants", "key", "serving", "unclaimed", "gone", "admitted", "spent", "units", "basket_milli",
    "return_permille", "moves",
)  # fmt: skip


class View(msgspec.Struct):
    """A queue as it was at one moment."""

    epoch: int
    mode: str
    sale_status: str
    sale_end_at_ms: int
    """0 where there is none."""
    opens_at_ms: int
    """From when people are let in: the sale has begun and the queue is open."""
    is_paused: bool
    """By the organizer: the queue, or the whole sale."""
    tail: int
    entrants: int
    """Who takes part in the draw: numbers up to this one, once they are frozen."""
    is_drawn: bool
    draw: Permutation | None
    serving: int
    gone: Gone
    stock: Stock
    pace: Pace
    read_at_s: float
    """On the monotonic clock."""

    # Found once for everybody who asks.
    passed: int = 0
    """Places up to `serving` that are not marked as gone."""
    is_on_sale: bool = False
    is_sold_out: bool = False
    """Nothing is left, and nothing can come back but by a refund."""
    uncertain_from: int = 0
    """With so many people ahead or more the outlook is not `likely`, and …"""
    unlikely_from: int = 0
    """… with so many it is `unlikely`."""

    def __post_init__(self) -> None:
        self.passed = self.serving - self.gone.up_to(self.serving)
        self.is_on_sale = self.sale_status in ("published", "paused")
        self.is_sold_out = self.stock.available + self.stock.reserved == 0
        # The more are ahead the worse it looks.
        ahead = range(AHEAD_MAX)
        self.uncertain_from = bisect_left(
            ahead, 1, key=lambda people: outlook(people, self.stock) != "likely"
        )
        self.unlikely_from = bisect_left(
            ahead, 1, key=lambda people: outlook(people, self.stock) == "unlikely"
        )

    def place_of(self, number: int) -> int | None:
        """The place of a number, or None before the draw."""
        if self.mode == "lottery":
            if not self.is_drawn:
                # Who joined behind the frozen ones has a place already; 0 entrants: not frozen yet.
                return number if 0 < self.entrants < number else None
            if number <= self.entrants and self.draw is not None:
                return self.draw.place_of(number)
        return number

    def ahead_of(self, place: int) -> int:
        """How many people stand before this place and are still to be let in."""
        if place <= self.serving:
            return 0
        return place - 1 - self.gone.up_to(place - 1) - self.passed

    def is_over(self, now_ms: int) -> bool:
        """Whether nothing will be sold any more."""
        return not self.is_on_sale or 0 < self.sale_end_at_ms <= now_ms

    def outlook(self, ahead: int) -> Outlook:
        """Whether seats will be left for somebody with so many people ahead."""
        if ahead < self.uncertain_from:
            return "likely"
        return "uncertain" if ahead < self.unlikely_from else "unlikely"


class _GoneAt(NamedTuple):
    """Which state of the bits was read."""

    epoch: int
    number: int
    is_drawn: bool


class _Watch:
    """One event that is looked at."""

    def __init__(self, cell_id: CellId) -> None:
        self.cell_id = cell_id
        self.keys = CellKeys(cell_id)
        self.asked_at_s = time.monotonic()
        self.looked = asyncio.Event()
        self.view: View | None = None
        self.error: RushError | None = None
        self.zones: list[str] = []
        self.gone = Gone()
        self.gone_at: _GoneAt | None = None
        self.listeners: set[Callable[[], None]] = set()
        self.task: asyncio.Task[None] | None = None


class QueueViews:
    """The queues that this process is asked for."""

    def __init__(self, stores: Stores, cells: CellDirectory) -> None:
        self._stores = stores
        self._cells = cells
        self._watches: dict[CellId, _Watch] = {}

    async def close(self) -> None:
        """Look no more."""
        tasks = [watch.task for watch in self._watches.values() if watch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watches.clear()

    @property
    def age_s(self) -> float:
        """The age of the oldest look that somebody is told of; 0 where there is none."""
        read_at_s = [watch.view.read_at_s for watch in self._watches.values() if watch.view is not None]
        return time.monotonic() - min(read_at_s) if read_at_s else 0.0

    def known(self, cell_id: CellId) -> View | None:
        """The last look, where it is good enough; else there is `find`."""
        watch = self._watches.get(cell_id)
        if watch is None:
            return None
        now_s = watch.asked_at_s = time.monotonic()
        view = watch.view
        if watch.error is None:
            return view
        is_away = isinstance(watch.error, StoreUnavailable)
        return view if view is not None and is_away and now_s - view.read_at_s < AGE_MAX_S else None

    async def find(self, cell_id: CellId) -> View:
        """The last look, or the first one.

        Raises NotFound for an event without a waiting room or one that was never published, Fenced while its
        cell is not open, StoreUnavailable while Redis is away, and Overloaded where too many are looked at.
        """
        await self._cells.find(cell_id)
        watch = self._watch(cell_id)
        await watch.looked.wait()
        view = self.known(cell_id)
        if view is not None:
            return view
        raise copy.copy(watch.error) if watch.error is not None else StoreUnavailable()

    @contextmanager
    def listening(self, cell_id: CellId, listener: Callable[[], None]) -> Any:
        """Have `listener` called after each look, as long as the context lasts."""
        watch = self._watch(cell_id)
        watch.listeners.add(listener)
        try:
            yield
        finally:
            watch.listeners.discard(listener)
            watch.asked_at_s = time.monotonic()

    def _watch(self, cell_id: CellId) -> _Watch:
        watch = self._watches.get(cell_id)
        if watch is None:
            if len(self._watches) >= VIEWS_MAX:
                raise Overloaded
            watch = self._watches[cell_id] = _Watch(cell_id)
            watch.task = asyncio.get_running_loop().create_task(self._look_on(watch))
        watch.asked_at_s = time.monotonic()
        return watch

    async def _look_on(self, watch: _Watch) -> None:
        """Look again and again, until nobody asks any more."""
        try:
            while True:
                try:
                    watch.view, watch.error = await self._look(watch), None
                except RushError as error:
                    watch.error = error
                watch.looked.set()
                for listener in tuple(watch.listeners):
                    listener()
                is_unasked = time.monotonic() - watch.asked_at_s > UNASKED_MAX_S
                if not watch.listeners and (is_unasked or isinstance(watch.error, NotFound)):
                    return
                await asyncio.sleep(REFRESH_INTERVAL_S)
        finally:
            self._watches.pop(watch.cell_id, None)
            watch.looked.set()

    async def _look(self, watch: _Watch) -> View:
        sale, queue, passes, *zones = await self._read(watch, watch.zones)
        if sale[0] is None:
            return await self._look_why(watch)
        if sale[4] is None:
            raise NotFound("This event has no waiting room")
        named = sale[9].decode().split()
        if named != watch.zones:
            watch.zones = named
            sale, queue, passes, *zones = await self._read(watch, watch.zones)
        if sale[0] is None or queue[0] is None:
            raise Fenced
        await self._read_gone(watch, _GoneAt(int(sale[0]), _int(queue[5]), queue[2] is not None))
        return _view(sale, queue, passes, zones, watch.gone)

    async def _look_why(self, watch: _Watch) -> View:
        """What there is to say of a cell that is not open: the last thing known, where the sale is over for
        good; raises Fenced."""
        if await self._cells.is_closed(watch.cell_id):
            return msgspec.structs.replace(
                watch.view or _CLOSED, sale_status="ended", read_at_s=time.monotonic()
            )
        await self._cells.wake_recovery(watch.cell_id)
        raise Fenced

    async def _read(self, watch: _Watch, zones: list[str]) -> list[Any]:
        keys = watch.keys
        try:
            async with (
                asyncio.timeout(READ_TIMEOUT_S),
                self._stores.redis.pipeline(transaction=False) as pipeline,
            ):
                pipeline.hmget(keys.sale, _SALE)
                pipeline.hmget(keys.queue, _QUEUE)
                pipeline.zcard(keys.passes)
                for zone in zones:
                    pipeline.hmget(keys.zone(zone), ("available", "reserved"))
                replies: list[Any] = await pipeline.execute()
        except (*REDIS_ERRORS, OSError, TimeoutError):
            raise StoreUnavailable from None
        return replies

    async def _read_gone(self, watch: _Watch, at: _GoneAt) -> None:
        """Fetch the bits, where others are set than before."""
        if at == watch.gone_at:
            return
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                bits: Any = await self._stores.redis.get(watch.keys.gone)
        except (*REDIS_ERRORS, OSError, TimeoutError):
            raise StoreUnavailable from None
        watch.gone, watch.gone_at = Gone(bits or b""), at


def _int(text: bytes | None) -> int:
    return 0 if text is None else int(text)


def _view(sale: list[Any], queue: list[Any], passes: int, zones: list[list[Any]], gone: Gone) -> View:
    now_ms = int(time.time() * 1000)
    tail, entrants, serving = _int(queue[0]), _int(queue[1]), _int(queue[3])
    key = queue[2]
    stock = Stock(
        available=sum(_int(available) for available, _ in zones),
        reserved=sum(_int(reserved) for _, reserved in zones),
        out=passes + _int(queue[4]),
        basket_milli=_int(queue[9]) or BASKET_MILLI,
        return_permille=_int(queue[10]),
        admitted=_int(queue[6]),
        units=_int(queue[8]),
        spent=_int(queue[7]),
    )
    return View(
        epoch=int(sale[0]),
        mode=sale[4].decode(),
        sale_status=sale[1].decode(),
        sale_end_at_ms=_int(sale[3]),
        opens_at_ms=max(_int(sale[2]), _int(sale[5])),
        is_paused=sale[8] == b"1" or sale[1] == b"paused",
        tail=tail,
        entrants=entrants,
        is_drawn=key is not None,
        draw=permutation(bytes.fromhex(key.decode()), entrants) if key and entrants else None,
        serving=serving,
        gone=gone,
        stock=stock,
        pace=pace(
            _moves(queue[11] or b""), now_ms, US_PER_S / max(_int(sale[6]), 1), max(_int(sale[7]), 1), stock
        ),
        read_at_s=time.monotonic(),
    )


def _moves(text: bytes) -> list[tuple[int, int]]:
    pairs = (point.split(b":") for point in text.split())
    return [(int(at_ms), int(people)) for at_ms, people in pairs]


_CLOSED = View(
    epoch=0, mode="open", sale_status="ended", sale_end_at_ms=0, opens_at_ms=0, is_paused=False, tail=0,
    entrants=0, is_drawn=False, draw=None, serving=0, gone=Gone(),
    stock=Stock(0, 0, 0, BASKET_MILLI, 0, 0, 0, 0), pace=Pace(0, 1.0, 0, 1.0, 1.0), read_at_s=0.0,
)  # fmt: skip
"""Of a queue that has left Redis."""
