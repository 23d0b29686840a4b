"""Entrants whose Postgres was set back: a number that nobody has takes no part in the draw."""

from typing import Any
from uuid import uuid4

import pytest

from engine.repair_queue import queries as repairs
from engine.waiting.draw import Stage
from engine.waiting.entrants import queries
from engine.waiting.lottery import WITHDRAWN, pseudonym
from tests.integration.kit import Rig, until
from tests.integration.test_lottery import open_draw


async def test_who_had_left_before_it_is_nobody_in_the_draw(rig: Rig) -> None:
    recovery = rig.work()
    draw = await open_draw(rig)
    await draw.join(5)
    await draw.leave(3)
    await draw.freeze()
    await draw.until_frozen()
    position = await rig.caught_up(draw.event)
    await recovery.stop()
    # As it was before anybody came, and what the ledger had from then on is trimmed.
    here = f"event_ref = {draw.event.cell.event_ref}"
    await rig.pool.execute(f"UPDATE cells SET seq = 1 WHERE {here}")
    await rig.pool.execute(
        "UPDATE waiting_rooms SET tail = 0, entrants = NULL, frozen_at = NULL, frozen_epoch = NULL, "
        f"frozen_seq = NULL WHERE {here}"
    )
    await rig.pool.execute(f"DELETE FROM queue_places WHERE {here}")
    await rig.redis.xtrim(draw.event.keys.ledger, minid=str(position), approximate=False)
    rig.work()

    async def is_later() -> bool:
        return bool(await rig.pool.fetchval(f"SELECT epoch > {position.epoch} FROM cells WHERE {here}"))

    await until(is_later, "repaired")
    await draw.until_frozen()

    async def is_drawn() -> bool:
        return await draw.draws.advance(draw.event.cell) is Stage.DRAWN

    await until(is_drawn, "drawn")
    leaves = [bytes.fromhex(line.decode()) for line in await draw.lines()]
    people = [pseudonym(draw.event.id, draw.people[number]) for number in (1, 2, 4, 5)]
    assert leaves == [*people[:2], WITHDRAWN, *people[2:]]
    assert await draw.is_proved()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("repair_missing_places", {"tail": 4, "firsts": [], "lasts": []}),
        ("repair_ended_places", {"numbers": [2, 3]}),
    ],
)
async def test_a_hole_that_is_repaired_at_the_freeze_is_no_entrant(
    rig: Rig, name: str, values: dict[str, Any]
) -> None:
    rig.work()
    draw = await open_draw(rig)
    event_ref, cell = draw.event.cell
    async with rig.pool.acquire() as connection, connection.transaction():
        await repairs.repair_places(
            connection, numbers=[1, 4], users=[uuid4(), uuid4()], event_ref=event_ref, cell=cell
        )
        await getattr(repairs, name)(connection, event_ref=event_ref, cell=cell, **values)
        await connection.execute(
            "UPDATE waiting_rooms SET tail = 4, entrants = 4, frozen_at = now() WHERE event_ref = $1",
            event_ref,
        )
        rows = queries.entrants_between(connection, event_ref=event_ref, cell=cell, first=1, last=4)
        assert [row["number"] async for row in rows] == [1, 4]
