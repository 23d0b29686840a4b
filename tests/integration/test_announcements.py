"""What an announcement settles, and what it must not."""

from uuid import uuid4

import pytest

from engine import ids
from engine.durability import Announcement, Durability, Settled
from engine.ids import CellId
from engine.keys import tag
from engine.ledger import Position
from engine.stores import Stores

CELL = CellId(7, 0)


@pytest.fixture
def durability(stores: Stores) -> Durability:
    """It asks nobody, so what is settled as durable was settled by announcements."""
    return Durability(stores)


def _announce(durability: Durability, epoch: int, since: int, until: int) -> None:
    durability.hear(Announcement(cell=tag(CELL), epoch=epoch, from_seq=since, seq=until))


async def _wait(durability: Durability, epoch: int, seq: int) -> Settled:
    return await durability.wait(CELL, Position(epoch, seq), ids.new_id(*CELL), 2, 30)


async def test_what_was_announced_of_this_epoch_is_durable(durability: Durability) -> None:
    _announce(durability, 3, 10, 20)
    _announce(durability, 3, 20, 30)
    assert await _wait(durability, 3, 11) is Settled.DURABLE
    assert await _wait(durability, 3, 30) is Settled.DURABLE


@pytest.mark.parametrize(
    ("epoch", "seq"),
    [(3, 10), (3, 31), (2, 15), (2, 31), (4, 15)],
    ids=["before what was heard", "after it", "an older epoch", "an older epoch, later", "a newer epoch"],
)
async def test_nothing_else_is_settled_by_it(durability: Durability, epoch: int, seq: int) -> None:
    _announce(durability, 3, 10, 20)
    _announce(durability, 3, 20, 30)
    assert await _wait(durability, epoch, seq) is not Settled.DURABLE


async def test_a_gap_in_what_was_heard_settles_nothing_before_it(durability: Durability) -> None:
    _announce(durability, 3, 10, 20)
    _announce(durability, 3, 25, 30)
    assert await _wait(durability, 3, 15) is not Settled.DURABLE
    assert await _wait(durability, 3, 26) is Settled.DURABLE


async def test_an_announcement_of_an_older_epoch_changes_nothing(durability: Durability) -> None:
    _announce(durability, 4, 0, 5)
    _announce(durability, 3, 10, 50)
    assert await _wait(durability, 3, 20) is not Settled.DURABLE
    assert await _wait(durability, 4, 5) is Settled.DURABLE


async def test_after_a_reconnect_what_was_heard_before_settles_nothing(
    durability: Durability, stores: Stores
) -> None:
    """The new connection may lead to a promoted replica that gave the same ids to other entries."""
    _announce(durability, 3, 10, 20)
    await stores.line.close()
    await stores.line.start()
    assert await _wait(durability, 3, 15) is not Settled.DURABLE
    _announce(durability, 3, 20, 30)
    assert await _wait(durability, 3, 15) is not Settled.DURABLE
    assert await _wait(durability, 3, 25) is Settled.DURABLE
    assert not durability.is_known(CellId(uuid4().int & 0xFFFF, 0), Position(3, 25))
