"""A real cluster of three masters: each sale lives on its own node, and slots move while it sells."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from engine.bookings import Answer, Bookings
from engine.errors import RushError, ServiceUnavailable
from engine.settings import Settings
from engine.slots import slot_of_cell
from tests.cluster import Cluster, ClusterServer
from tests.integration.books import LedgerWatch, differences
from tests.integration.crowd import Crowd
from tests.integration.kit import (
    Event,
    Impatience,
    Rig,
    changed,
    confirm_patiently,
    confirmed_rows,
    open_rig,
    reserve_patiently,
    until,
)
from tests.stores import machine_redis

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory, is_machine: bool) -> Iterator[Cluster]:
    """Three masters that the tests of this module share."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), binary=machine_redis() if is_machine else None)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture
async def rig(masters: Cluster, quick: Settings) -> AsyncIterator[Rig]:
    """On the empty cluster; nothing runs in it yet."""
    masters.wipe_live()
    async with open_rig(changed(quick, redis_url=masters.url)) as opened:
        yield opened


async def sales_everywhere(rig: Rig, cluster: Cluster) -> dict[ClusterServer, Event]:
    """An event on sale on each master."""
    sales: dict[ClusterServer, Event] = {}
    while len(sales) < len(cluster.masters):
        event = await rig.sale([1000], max_per_user=2)
        sales.setdefault(await asyncio.to_thread(cluster.owner, slot_of_cell(event.cell)), event)
    return sales


async def test_every_sale_lives_on_its_own_node(rig: Rig, masters: Cluster) -> None:
    rig.work()
    gateway = await rig.gateway()
    sales = await sales_everywhere(rig, masters)
    for event in sales.values():
        for _ in range(3):
            await confirm_patiently(gateway, await reserve_patiently(gateway, event, uuid4(), str(uuid4())))
    for server, event in sales.items():
        with server.sync_client() as client:
            assert client.exists(event.keys.sale)
        assert await differences(rig, event) == []


@pytest.mark.parametrize(
    "is_lifted", [True, False], ids=["to a lifted node", "to a node that is still fenced"]
)
async def test_a_slot_moves_while_its_sale_goes_on(rig: Rig, masters: Cluster, is_lifted: bool) -> None:
    rig.work()
    gateway = await rig.gateway()
    sales = await sales_everywhere(rig, masters)
    (source, moving), (target, _), (_, bystander) = sales.items()
    watch = LedgerWatch(rig.settings, moving)
    epoch = (await rig.offset(moving)).epoch
    async with Crowd(gateway, moving) as crowd, Crowd(gateway, bystander) as undisturbed:
        await until(lambda: crowd.confirmed > 10 and undisturbed.confirmed > 10, "they buy")
        if not is_lifted:
            with target.sync_client() as client:
                client.script_flush()
        await masters.move(slot_of_cell(moving.cell), target)
        await until(lambda: _is_opened_again(rig, moving, epoch), "opened on the node that it came to")
        before = crowd.confirmed
        await until(lambda: crowd.confirmed > before + 10, "they buy again")
    with target.sync_client() as client:
        assert client.exists(moving.keys.sale)
    assert undisturbed.refused == 0
    for event, buyers in ((moving, crowd), (bystander, undisturbed)):
        assert await differences(rig, event) == []
        assert buyers.told_confirmed <= await confirmed_rows(rig, event)
        assert buyers.odd == []
    assert watch.twice == []
    await watch.close()
    await masters.move(slot_of_cell(moving.cell), source)


async def _is_opened_again(rig: Rig, event: Event, epoch: int) -> bool:
    with contextlib.suppress(Exception):
        position = await rig.position(event)
        return position is not None and position.epoch > epoch
    return False


async def test_half_a_cell_answers_503_and_nothing_is_done_by_halves(rig: Rig, masters: Cluster) -> None:
    """After every single key that is moved, every verb is tried: whatever is answered, the books agree."""
    rig.work()
    gateway = await rig.gateway()
    sales = await sales_everywhere(rig, masters)
    (source, event), (target, _), _ = sales.items()
    held = [await reserve_patiently(gateway, event, uuid4(), str(uuid4())) for _ in range(12)]
    sold = [await confirm_patiently(gateway, answer) for answer in held[:2]]
    slot = slot_of_cell(event.cell)
    await masters.begin_moving(slot, target)
    refused = 0
    open_holds = held[2:]
    while await masters.move_keys(slot, target, keys_max=1):
        refused += await _try_everything(gateway, event, open_holds)
    await masters.end_moving(slot, source, target)
    assert refused > 0
    again = await Impatience().until_selling(gateway, event)
    await confirm_patiently(gateway, again)
    assert await differences(rig, event) == []
    assert {answer.booking.id for answer in [*sold, again]} <= await confirmed_rows(rig, event)
    await masters.move(slot, source)


async def _try_everything(gateway: Bookings, event: Event, held: list[Answer]) -> int:
    """A new reservation, and a confirm and a cancel of what is held; how many were answered 503."""
    calls = [gateway.reserve(uuid4(), event.items(), None)]
    if len(held) > 1:
        confirmed, cancelled = held[0].booking, held[1].booking
        calls.append(gateway.confirm(confirmed.user_id, confirmed.id))
        calls.append(gateway.cancel(cancelled.user_id, cancelled.id))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for answer, outcome in zip(held[:2], outcomes[1:], strict=False):
        if not isinstance(outcome, ServiceUnavailable):
            held.remove(answer)
    for outcome in outcomes:
        assert isinstance(outcome, Answer | ServiceUnavailable), f"{outcome!r}"
    assert not any(isinstance(outcome, RushError) and outcome.http_status != 503 for outcome in outcomes)
    return sum(isinstance(outcome, ServiceUnavailable) for outcome in outcomes)


async def test_the_scripts_of_one_node_are_lifted_alone(rig: Rig, masters: Cluster) -> None:
    rig.work()
    gateway = await rig.gateway()
    sales = await sales_everywhere(rig, masters)
    (fenced, event), (_, other), _ = sales.items()
    epochs = [(await rig.offset(each)).epoch for each in (event, other)]
    async with Crowd(gateway, other) as undisturbed:
        with fenced.sync_client() as client:
            client.script_flush()
        await confirm_patiently(gateway, await Impatience().until_selling(gateway, event))
        await until(lambda: undisturbed.confirmed > 10, "they buy")
    assert undisturbed.refused == 0
    after = [(await rig.caught_up(each)).epoch for each in (event, other)]
    assert after == [epochs[0] + 1, epochs[1]]
