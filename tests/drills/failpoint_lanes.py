"""The lanes of a fail-point run: each starts process after process that dies, or freezes, where it is told.

Who comes next in a lane goes on from what the one before left half done, and strikes in its turn.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import uuid4

from engine.ids import CellId
from engine.keys import CellKeys
from engine.operating import Operator
from tests.drills.failpoint_api import FLOWS, Caller
from tests.drills.failpoint_large import LargeEvent
from tests.drills.failpoint_plan import Job
from tests.drills.failpoint_stage import POLL_S, Stage, Struck
from tests.drills.members import Member

CALM_S = 0.3
"""The next one of a lane waits so long: others show that they have taken over."""
LAG_ENTRIES = 12
"""So much is not in Postgres when the ledger is cut."""
LAG_MAX_S = 40.0
SEEN_S = 0.15
"""An entry that is so old has been seen by whoever watches the ledger."""
OUTBOX_ROWS = 6_000
POISON = {
    "poison": "quantity <> 3 OR created_at < '{now}'",
    "poisoned confirm": "quantity <> 2 OR status <> 'confirmed' OR confirmed_at < '{now}'",
}
"""What Postgres is made to refuse; it takes rows that it has already."""
OPERATOR_WAIT_S = 20.0
KEYS, KEYS_TTL_MS = 1_500, 60_000
"""More than one step of a wipe takes."""
AGAIN_S = 12.0
"""More than a lift takes on a busy machine."""
CLOSING_EVERY_S = 8.0
"""A recovery takes finished cells out of Redis when it begins: so often another one begins."""


# Gateways that the crowd asks.


async def gateway(stage: Stage, jobs: list[Job]) -> None:
    """One of the two dies again and again; people go on at the other one."""
    member = stage.stack.members["gateway-2"]
    for job in jobs:
        await stage.attempt(job, _gateway_once(stage, job, member))
        await asyncio.sleep(CALM_S)
    member.kill()


async def _gateway_once(stage: Stage, job: Job, member: Member) -> None:
    member.kill()
    struck = stage.start(job, member)
    again = {"lost sale": _lose_sale, "garbage": partial(_send_garbage, member)}.get(job.way)
    await stage.until_struck(job, member, struck, partial(again, stage) if again else None, every_s=1.0)


async def _lose_sale(stage: Stage) -> None:
    """Somebody deletes the key that says that the cell is open."""
    await stage.redis.delete(stage.keys.sale)


async def _send_garbage(member: Member, stage: Stage) -> None:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", member.port)
        writer.write(b"\x00\x01 not http\r\n\r\n")
        await writer.drain()
        writer.close()


# Gateways that organizers and people with accounts ask.


async def flows(stage: Stage, jobs: list[Job]) -> None:
    """A gateway for each job, and somebody who does everything that can be done, until it is dead; then what
    they had begun is finished at another one."""
    for job in jobs:
        await stage.attempt(job, _flow_once(stage, job))


async def _flow_once(stage: Stage, job: Job) -> None:
    member = stage.member("serve", "--processes", "1")
    struck = stage.start(job, member)
    waiting = asyncio.create_task(stage.until_struck(job, member, struck))
    try:
        await _until_listening(member, waiting)
        while not waiting.done():
            caller = Caller(stage, member)
            try:
                await FLOWS[job.way](caller, stage)
            finally:
                caller.close()
        await waiting
    finally:
        waiting.cancel()


async def _until_listening(member: Member, waiting: asyncio.Task[None]) -> None:
    while not waiting.done():
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", member.port)
            writer.close()
            return
        await asyncio.sleep(POLL_S)


# The relay.


async def relay(stage: Stage, jobs: list[Job]) -> None:
    """One relay after the other."""
    for job in jobs:
        async with contextlib.AsyncExitStack() as resting:
            if job.way == "quiet":
                await resting.enter_async_context(stage.lifts_rest)
                await stage.attempt(job, _until_lifted(stage))
            await resting.enter_async_context(stage.relays_rest)
            await stage.attempt(job, _relay_once(stage, job))
        await asyncio.sleep(CALM_S)


async def _relay_once(stage: Stage, job: Job) -> None:
    again = None
    if job.way == "ahead":
        await _cut_ledger(stage)
    if job.way == "edits":
        again = partial(_edit, stage)
    member = stage.member("work", "relay")
    async with _poisoned(stage, job.way):
        await stage.until_struck(job, member, stage.start(job, member), again, every_s=1.0)


async def _cut_ledger(
    stage: Stage, unless: Callable[[], bool] = lambda: False, cell_id: CellId | None = None
) -> None:
    """While no relay works the ledger grows, and then loses what Postgres has not got: as if Postgres had
    been set back to where the ledger does not reach any more."""
    cell_id = cell_id or stage.cell
    await stage.until_open(unless)
    async with asyncio.timeout(LAG_MAX_S):
        while not unless() and await stage.lag(cell_id) < LAG_ENTRIES:
            await asyncio.sleep(POLL_S)
    await asyncio.sleep(SEEN_S)
    if not unless():
        await stage.redis.xtrim(CellKeys(cell_id).ledger, maxlen=1, approximate=False)


async def _edit(stage: Stage) -> None:
    calm = stage.stack.members["gateway-1"]
    caller = Caller(stage, calm)
    try:
        for action in ("pause", "resume"):
            await caller.ask("POST", f"/events/{stage.scene.event.id}/{action}", {})
    finally:
        caller.close()


@contextlib.asynccontextmanager
async def _poisoned(stage: Stage, way: str):  # type: ignore[no-untyped-def]
    """Have Postgres refuse some bookings for a time: another fault, which the checker must know of."""
    if way not in POISON:
        yield
        return
    [row] = await stage.sql("SELECT clock_timestamp() AS now")
    check = POISON[way].format(now=row["now"])
    with stage.scene.fault("poison", check):
        await stage.sql(f"ALTER TABLE bookings ADD CONSTRAINT drill_poison CHECK ({check}) NOT VALID")
        try:
            yield
        finally:
            await stage.sql("ALTER TABLE bookings DROP CONSTRAINT drill_poison")


async def _until_lifted(stage: Stage) -> None:
    """A recovery to which nothing happens finishes what the last one began."""
    calm = stage.stack.members["recovery-1"]
    calm.start()
    await stage.until_open()
    calm.kill()


# Recovery, and operators.


async def recovery(stage: Stage, jobs: list[Job]) -> None:
    """One recovery after the other; before the next thing is lost, the event sells again."""
    large = LargeEvent(stage)
    for job in jobs:
        async with stage.lifts_rest:
            if job.way == "operator":
                await stage.attempt(job, _operator_once(stage, job))
            elif job.way in ("large", "half loaded"):
                await stage.attempt(job, _large_once(stage, job, large))
            else:
                await stage.attempt(job, _recovery_once(stage, job))
    stage.stack.members["recovery-1"].start()
    await large.end()


async def _recovery_once(stage: Stage, job: Job) -> None:
    member = stage.member("work", "recovery")
    struck = stage.start(job, member)
    if job.way == "finished":
        await stage.until_struck(job, member, struck, partial(_begin_anew, member), CLOSING_EVERY_S)
        return
    # It finishes first what the one before has left, and may come by its own point in doing so.
    is_struck = stage.file_of(job).exists
    await stage.until_open(unless=is_struck)
    # A relay at work may wait for what this recovery was to do.
    ahead = {"ahead": stage.cell, "queue ahead": stage.queue_cell}.get(job.way)
    while ahead is not None and stage.relays_rest.locked() and not is_struck():
        await asyncio.sleep(POLL_S)
    if is_struck():
        await stage.until_struck(job, member, struck)
    elif ahead is not None:
        async with stage.no_relay():
            await _cut_ledger(stage, is_struck, ahead)
            await _unlift(stage)
            await stage.until_struck(job, member, struck)
    elif job.way == "replica":
        await stage.stack.attach_replica()
        await stage.until_struck(job, member, struck)
        await stage.stack.drop_other_redis()
    elif job.way == "closed by hand":
        event = stage.scene.event.id
        await stage.operator(lambda operator: operator.fence_event(event))
        await _unlift(stage)
        await stage.until_struck(job, member, struck)
        await _calm_recovery(stage, lambda operator: operator.unfence_event(event, OPERATOR_WAIT_S))
    else:
        lose = {
            "full cell": _fill_and_make_old,
            "old form": _make_old,
            "queue rebuilt": _make_queue_old,
            "rebuilt": _lose_or_empty,
            "unlifted": _unlift,
        }[job.way]
        await lose(stage)
        await stage.until_struck(job, member, struck, partial(lose, stage), every_s=AGAIN_S)


async def _large_once(stage: Stage, job: Job, large: LargeEvent) -> None:
    lose = large.lose if job.way == "large" else large.lose_and_begin
    await lose()
    member = stage.member("work", "recovery")
    await stage.until_struck(job, member, stage.start(job, member), large.lose, every_s=AGAIN_S)


async def _begin_anew(member: Member) -> None:
    member.kill()
    member.start()


async def _unlift(stage: Stage) -> None:
    """As after a restart: all is there, but the scripts are not."""
    await stage.redis.script_flush()


async def _make_old(stage: Stage) -> None:
    """As after an update of the program: the cell is drained and written anew."""
    await stage.redis.hset(stage.keys.sale, "format", "0")
    await _unlift(stage)


async def _make_queue_old(stage: Stage) -> None:
    """The same with the event that has a waiting room."""
    await stage.redis.hset(stage.queue_keys.sale, "format", "0")
    await _unlift(stage)


async def _fill_and_make_old(stage: Stage) -> None:
    """Many more keys: those of people who pressed once."""
    pipeline = stage.redis.pipeline(transaction=False)
    for _ in range(KEYS):
        pipeline.set(stage.keys.rate(uuid4()), 1, px=KEYS_TTL_MS)
    await pipeline.execute()
    await _make_old(stage)


async def _lose_or_empty(stage: Stage) -> None:
    if stage.scene.run.seed % 2:
        await _make_old(stage)
    else:
        with stage.scene.fault("redis-flushall", may_lose=True):
            await stage.redis.flushall()


async def _calm_recovery(stage: Stage, act: Callable[[Operator], Awaitable[str]]) -> None:
    """What an operator does while a recovery works that nothing happens to."""
    calm = stage.stack.members["recovery-1"]
    calm.start()
    try:
        await stage.operator(act)
    finally:
        calm.kill()


async def _operator_once(stage: Stage, job: Job) -> None:
    """An operator's command dies; the operator gives it once more, or takes it back."""
    event = stage.scene.event.id
    calm = stage.stack.members["recovery-1"]
    calm.start()
    await stage.until_open()
    name = job.point.partition(".after_")[2]
    fence, unfence = ["fence", "--yes"], ["unfence"]
    commands = {
        "fence_row": fence, "flush": fence, "unfence_row": unfence, "waking": unfence,
        "fenced_row": [*fence, event], "cell_fence": [*fence, event],
        "unfenced_row": [*unfence, event], "asking": [*unfence, event],
    }  # fmt: skip
    command = commands.get(name, ["rebuild", event])
    if command == unfence:
        await stage.operator(lambda operator: operator.fence())
    elif command[0] == "unfence":
        await stage.operator(lambda operator: operator.fence_event(event))
    member = stage.member(*command)
    await stage.until_struck(job, member, stage.start(job, member))
    if command[0] == "rebuild":
        await stage.until_open()
    elif event in command:
        await stage.operator(lambda operator: operator.unfence_event(event, OPERATOR_WAIT_S))
    else:
        await stage.operator(lambda operator: operator.unfence(OPERATOR_WAIT_S))
    calm.kill()


# The workers that need nobody to lead them.


async def undisturbed(stage: Stage, jobs: list[Job]) -> None:
    """One worker of the lane's kind after the other: what it does comes up all the time."""
    for job in jobs:
        member = stage.member("work", job.lane)
        await stage.attempt(job, stage.until_struck(job, member, stage.start(job, member)))


async def sweeping(stage: Stage, jobs: list[Job]) -> None:
    """Expiry and publisher: while one of them dies again and again, the other is away."""
    for job in jobs:
        if job.way == "full outbox":
            await stage.sql(
                "INSERT INTO outbox (aggregate_type, aggregate_id, version, event_type, payload) "
                "SELECT 'drill', gen_random_uuid(), 1, 'drill', '{}' FROM generate_series(1, $1::int)",
                OUTBOX_ROWS,
            )
        member = stage.member("work", "expiry" if job.way == "expiry" else "publisher")
        await stage.attempt(job, stage.until_struck(job, member, stage.start(job, member)))


LANES: dict[str, Callable[[Stage, list[Job]], Awaitable[None]]] = {
    "accounts": flows,
    "admission": undisturbed,
    "drafts": flows,
    "gateway": gateway,
    "lottery": undisturbed,
    "recovery": recovery,
    "relay": relay,
    "sales": flows,
    "sweeping": sweeping,
}
KINDS = {
    "admission": ["admission"],
    "lottery": ["lottery"],
    "recovery": ["recovery"],
    "relay": ["relay"],
    "sweeping": ["expiry", "publisher"],
}


async def run_lanes(stage: Stage, jobs: list[Job]) -> list[Struck]:
    """All of them at the same time; what became of each job."""
    if any(job.way.endswith("ahead") for job in jobs):
        # A ledger that was cut is what an audit is to find. It looks again when all is mended.
        for member in stage.stack.of_kind("auditor"):
            member.kill()
    async with asyncio.TaskGroup() as group:
        for lane in LANES:
            mine = [job for job in jobs if job.lane == lane]
            if mine:
                group.create_task(_run_lane(stage, lane, mine), name=lane)
    return stage.struck


async def _run_lane(stage: Stage, lane: str, jobs: list[Job]) -> None:
    """The stack's own processes of its kind make room, and take over in the end: other lanes need them."""
    members = [member for kind in KINDS.get(lane, []) for member in stage.stack.of_kind(kind)]
    for member in members:
        member.kill()
    await LANES[lane](stage, jobs)
    # Where another lane needs a time without them, not in the middle of it.
    async with stage.relays_rest:
        for member in members:
            member.start()
