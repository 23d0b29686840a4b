"""One turn of a rig: a timed slice of each operation, and back to the size that it had.

While Redis is timed the relay is frozen, so that its reading costs nothing there. What a slice has left in
the ledger is then carried by the thawed relay, which is timed as well.
"""

import asyncio
import random

import msgspec

from engine import ids
from loadtest.growth.crowd import IN_FLIGHT, Held, buyer
from loadtest.growth.processes import cpu_us
from loadtest.growth.rig import Rig
from loadtest.growth.sale import HOLD_TTL_S, insert_sales

WARM_UP = 50
"""Operations before the timed ones: the caches hold what another rig has left there."""
DUE_TTL_MS = 1
DUE_PAUSE_S = 0.02
LISTS = 200
OPENINGS = 2
RECORD = "a value of some length " * 10
"""As long as a booking's record, roughly: what the control writes."""
STRANGERS = 1 << 40
"""Numbers of buyers whom the crowd never gets to."""
LATER_MS = 4_000_000_000_000

RESERVE, CONFIRM, EXPIRE = "reserve", "confirm", "expire"
PLAIN_RECORD, PLAIN_IN_ORDER, PLAIN_ANYWHERE, PLAIN_BUYER = (
    "control: SET a record", "control: ZADD in order", "control: ZADD anywhere", "control: HSET a buyer",
)  # fmt: skip
OPENING = "open a sale"
JOIN_POSTGRES, JOIN_RELAY = "join: Postgres", "join: relay"
MOVE_POSTGRES, MOVE_RELAY = "join of confirms: Postgres", "join of confirms: relay"
PLAIN_JOIN = "control: join: Postgres, no full pages"
LIST_POSTGRES, LIST_GATEWAY = "list: Postgres", "list: gateway"

OPERATIONS = {
    RESERVE: "Redis, a reservation of two tickets by a new buyer",
    CONFIRM: "Redis, a hold that becomes a sale",
    EXPIRE: "Redis, a due hold that is taken back",
    JOIN_POSTGRES: "the relay's backends in Postgres, an entry that makes a booking",
    JOIN_RELAY: "the relay's own process, such an entry",
    MOVE_POSTGRES: "the relay's backends in Postgres, an entry that moves a booking",
    MOVE_RELAY: "the relay's own process, such an entry",
    LIST_POSTGRES: "the gateway's backends in Postgres, GET /bookings of one buyer",
    LIST_GATEWAY: "the gateway's own process, such a request",
    OPENING: "Redis, an event that recovery puts on sale",
    PLAIN_RECORD: "Redis, a plain SET of a new record among the bookings: what the data alone costs",
    PLAIN_IN_ORDER: "Redis, a plain ZADD to the deadlines, behind all others of its zone",
    PLAIN_ANYWHERE: "Redis, a plain ZADD to the deadlines, at a random place among those of its zone",
    PLAIN_BUYER: "Redis, a plain HSET of a new buyer's field",
    PLAIN_JOIN: "an entry that makes a booking, full_page_writes off: without what checkpoints cause",
}
"""What is measured, and whose CPU it is."""
CONTROLS = frozenset({PLAIN_RECORD, PLAIN_IN_ORDER, PLAIN_ANYWHERE, PLAIN_BUYER, PLAIN_JOIN})
"""No operations of ours: they show what part of the growth lies in the data and the processor's caches."""


Command = tuple[str | int, ...]


class Turn(msgspec.Struct):
    """CPU microseconds per operation."""

    costs: dict[str, float] = {}


class _Timed:
    """CPU of Redis over the block, per operation."""

    def __init__(self, rig: Rig, turn: Turn, name: str, count: int) -> None:
        self._rig, self._turn, self._name, self._count = rig, turn, name, count

    def __enter__(self) -> None:
        self._before_us = self._rig.redis_us()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._turn.costs[self._name] = (self._rig.redis_us() - self._before_us) / self._count


async def take_turn(rig: Rig, entries: int) -> Turn:
    """Measure everything once, `entries` operations of each kind."""
    turn = Turn()
    await _warm_up(rig)
    rig.relay.freeze()
    with _Timed(rig, turn, RESERVE, entries):
        confirmed = await rig.crowd.reserve(entries)
    await _time_join(rig, turn, (JOIN_POSTGRES, JOIN_RELAY), entries)
    with _Timed(rig, turn, CONFIRM, entries):
        await rig.crowd.confirm(confirmed)
    await _time_join(rig, turn, (MOVE_POSTGRES, MOVE_RELAY), entries)
    ended = await _hold_briefly(rig, entries)
    await rig.set_postgres("full_page_writes = off")
    await _time_join(rig, turn, (PLAIN_JOIN, None), entries)
    await rig.set_postgres("full_page_writes = on")
    with _Timed(rig, turn, EXPIRE, entries):
        taken_back = await rig.crowd.expire()
    assert taken_back == entries, f"{taken_back} of {entries} holds were due"
    rig.relay.thaw()
    await rig.until_caught_up()
    await _time_lists(rig, turn)
    await _time_opening(rig, turn)
    await _time_plain(rig, turn, entries)
    rig.relay.freeze()
    await rig.forget(ended, confirmed)
    return turn


async def _warm_up(rig: Rig) -> None:
    """Wake the relay, whose lease may have run out while it was frozen, and the caches."""
    rig.relay.thaw()
    ended = await _hold_briefly(rig, WARM_UP)
    await rig.until_caught_up()
    await rig.crowd.expire()
    await rig.until_caught_up()
    await rig.forget(ended, [])


async def _hold_briefly(rig: Rig, count: int) -> list[Held]:
    """So many holds, all of them due when this returns."""
    ttl_ms = await rig.stores.redis.hget(rig.hot.keys.sale, "hold_ttl_ms")
    await rig.crowd.set_hold_ttl_ms(DUE_TTL_MS)
    held = await rig.crowd.reserve(count)
    await rig.crowd.set_hold_ttl_ms(int(ttl_ms or 0))
    await asyncio.sleep(DUE_PAUSE_S)
    return held


async def _time_join(rig: Rig, turn: Turn, names: tuple[str, str | None], entries: int) -> None:
    """Let the relay carry what is in the ledger, then freeze it again."""
    postgres_us, relay_us = await rig.postgres_us("relay"), cpu_us(rig.relay.pid)
    rig.relay.thaw()
    await rig.until_caught_up()
    rig.relay.freeze()
    turn.costs[names[0]] = (await rig.postgres_us("relay") - postgres_us) / entries
    if names[1] is not None:
        turn.costs[names[1]] = (cpu_us(rig.relay.pid) - relay_us) / entries


async def _time_lists(rig: Rig, turn: Turn) -> None:
    numbers = random.sample(range(rig.plan.holds), min(2 * LISTS, rig.plan.holds))
    warm, timed = numbers[len(numbers) // 2 :], numbers[: len(numbers) // 2]
    await asyncio.to_thread(rig.list_bookings, [buyer(number) for number in warm])
    postgres_us, gateway_us = await rig.postgres_us("gateway"), cpu_us(rig.gateway.pid)
    await asyncio.to_thread(rig.list_bookings, [buyer(number) for number in timed])
    turn.costs[LIST_POSTGRES] = (await rig.postgres_us("gateway") - postgres_us) / len(timed)
    turn.costs[LIST_GATEWAY] = (cpu_us(rig.gateway.pid) - gateway_us) / len(timed)


async def _time_opening(rig: Rig, turn: Turn) -> None:
    sales = await insert_sales(rig.eye, OPENINGS, epoch=0, replid=None)
    with _Timed(rig, turn, OPENING, OPENINGS):
        for sale in sales:
            await rig.opener.open(sale)


async def _time_plain(rig: Rig, turn: Turn, count: int) -> None:
    """The growing structures alone, without a script.

    Keys, members and values look like those of real bookings and land among them; all are taken out again.
    """
    keys = rig.hot.keys
    made: dict[str, list[Command]] = {
        name: [] for name in (PLAIN_RECORD, PLAIN_IN_ORDER, PLAIN_ANYWHERE, PLAIN_BUYER)
    }
    undone: list[Command] = []
    holding = (rig.filled_ms[0] + HOLD_TTL_S * 1000, rig.filled_ms[1] + HOLD_TTL_S * 1000)
    for number in range(count):
        booking, user = str(ids.new_id(*rig.hot.cell_id)), str(buyer(STRANGERS + number))
        zone_id = rig.hot.zone_ids[number % len(rig.hot.zone_ids)]
        last = f"{zone_id}:{LATER_MS + number}:{booking}"
        anywhere = f"{zone_id}:{random.randint(*holding)}:{booking}"
        made[PLAIN_RECORD].append(("SET", keys.booking(booking), RECORD))
        made[PLAIN_IN_ORDER].append(("ZADD", keys.deadlines, 0, last))
        made[PLAIN_ANYWHERE].append(("ZADD", keys.deadlines, 0, anywhere))
        made[PLAIN_BUYER].append(("HSET", keys.buyers, user, f"2 0 {booking}"))
        undone.append(("DEL", keys.booking(booking)))
        undone.append(("ZREM", keys.deadlines, last, anywhere))
        undone.append(("HDEL", keys.buyers, user))
    for name, commands in made.items():
        with _Timed(rig, turn, name, count):
            await _run_plain(rig, commands)
    await _run_plain(rig, undone)


async def _run_plain(rig: Rig, commands: list[Command]) -> None:
    for first in range(0, len(commands), IN_FLIGHT):
        pipeline = rig.stores.redis.pipeline(transaction=False)
        for command in commands[first : first + IN_FLIGHT]:
            pipeline.execute_command(*command)
        await pipeline.execute()
