"""The draw, step by step. Each is done once, whoever does it and however often it is begun:

1. the ledger says that the entrants are frozen, and the relay has it in Postgres;
2. the root of their tree is stored, and with that published;
3. where a public round was named: its randomness is entered by the organizer;
4. the key is made of seed, root and randomness, and stored: from here on nothing can change, and the seed is
   shown;
5. Redis gets the key, and who is gone by place instead of by number; the ledger says that it was drawn.

What a step leaves behind stands in Postgres before the next one begins, under a guard in SQL that lets it be
written once. So a worker may die anywhere, and two of them may work at once. Redis gets the key from Postgres
only, however often it loses it.
"""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from functools import partial
from uuid import UUID

from engine import ids
from engine.catalogue_read import check_owner
from engine.errors import InvalidState, NotFound, ValidationFailed
from engine.failpoints import failpoint
from engine.ids import CellId
from engine.keys import CellKeys, tag
from engine.status import Status
from engine.stores import Stores
from engine.times import rfc3339
from engine.tokens import Claims
from engine.waiting import randomness as rounds
from engine.waiting.entrants import Lottery, find_lottery, leaf_pages, queries
from engine.waiting.lottery import (
    chunk_roots,
    commitment,
    draw_key,
    root_of,
)
from engine.waiting.moving import Moving

log = logging.getLogger(__name__)

MS_PER_S = 1_000
STALE_MAX = 100
"""How often Redis is told again at once because somebody left meanwhile."""


_one_at_a_time = ThreadPoolExecutor(max_workers=1, thread_name_prefix="signature")
"""Checks signatures: a process never spends more than one thread on them, whoever sends how many."""


class Stage(Enum):
    """How far a draw is."""

    OPEN = auto()
    """The entrants are not frozen, or Postgres does not know it yet."""
    AWAITS_RANDOMNESS = auto()
    AWAITS_REDIS = auto()
    """The key is fixed; the cell is not open just now."""
    DRAWN = auto()


class DrawBroken(Exception):
    """What is stored of a draw contradicts itself: nothing is drawn."""


class Draws:
    """Draws lotteries, and takes what the organizer enters."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def due(self) -> list[CellId]:
        """The cells whose lottery is to be drawn."""
        rows = [row async for row in queries.lotteries_to_draw(self._stores.pool)]
        return [CellId(row["event_ref"], row["cell"]) for row in rows]

    async def advance(self, cell_id: CellId) -> Stage:
        """Take a draw as far as it can go now; raises DrawBroken, and what the stores raise."""
        lottery = await find_lottery(self._stores.pool, cell_id)
        if lottery.entrants is None:
            return Stage.OPEN
        if lottery.root is None:
            lottery = await self._store_root(lottery)
        if lottery.public_round is not None and lottery.randomness is None:
            return Stage.AWAITS_RANDOMNESS
        if lottery.key is None:
            lottery = await self._store_key(lottery)
        _check(lottery)
        return await self._tell_redis(lottery)

    async def _store_root(self, lottery: Lottery) -> Lottery:
        """Compute the root and store it with the chunks under it; the lottery as it is then."""
        event_ref, cell = lottery.cell_id
        roots: list[bytes] = []
        async for page in leaf_pages(self._stores, lottery):
            roots += chunk_roots(page)
            # A page is some milliseconds of computing, and others work in this process too.
            await asyncio.sleep(0)
        async with self._stores.pool.acquire() as connection, connection.transaction():
            is_first = await queries.record_root(
                connection, root=root_of(roots), event_ref=event_ref, cell=cell
            )
            failpoint("draw.after_root")
            if is_first:
                await queries.insert_chunks(connection, event_ref=event_ref, cell=cell, roots=roots)
                failpoint("draw.after_chunks")
        failpoint("draw.after_tree")
        if is_first:
            log.info("%s: %d numbers take part in the draw", tag(lottery.cell_id), lottery.entrants)
        return await find_lottery(self._stores.pool, lottery.cell_id)

    async def _store_key(self, lottery: Lottery) -> Lottery:
        """Fix the key; the lottery as it is then, with whoever's key came first."""
        assert lottery.root is not None
        event_ref, cell = lottery.cell_id
        if commitment(lottery.seed) != lottery.commitment:
            raise DrawBroken(f"{tag(lottery.cell_id)}: the seed is not the one that was committed to")
        key = draw_key(lottery.seed, lottery.root, lottery.randomness or b"")
        await queries.record_key(
            self._stores.pool,
            key=key,
            root=lottery.root,
            randomness=lottery.randomness,
            event_ref=event_ref,
            cell=cell,
        )
        failpoint("draw.after_key")
        return await find_lottery(self._stores.pool, lottery.cell_id)

    async def _tell_redis(self, lottery: Lottery) -> Stage:
        """Have the cell draw; again where somebody has left since the bitmap was read."""
        assert lottery.key is not None
        assert lottery.entrants is not None
        keys = CellKeys(lottery.cell_id)
        moving = Moving(lottery.key, lottery.entrants)
        for _ in range(STALE_MAX):
            held = await self._stores.line.call("HGET", keys.queue, "key")
            if held is not None:
                if held.decode() != lottery.key.hex():
                    raise DrawBroken(f"{tag(lottery.cell_id)}: Redis has another key than Postgres")
                return Stage.DRAWN
            by_number = await self._stores.line.call("GET", keys.gone) or b""
            count, by_place = await moving.follow(by_number)
            status, *_ = await self._stores.run(
                "draw", [keys.sale, keys.queue, keys.gone, keys.ledger], lottery.key.hex(), count, by_place
            )
            failpoint("draw.after_draw")
            match Status(status):
                case Status.OK:
                    log.info("%s: drawn", tag(lottery.cell_id))
                    return Stage.DRAWN
                case Status.REPLAYED | Status.EPOCH_STALE:
                    continue
                case _:
                    return Stage.AWAITS_REDIS
        return Stage.AWAITS_REDIS

    async def enter_randomness(
        self, actor: Claims, event_id: UUID, public_round: str, randomness: bytes, signature: bytes | None
    ) -> Lottery:
        """Note what the named round said, once; the lottery as it is then.

        Raises NotFound; ValidationFailed for another round, what it cannot have said, and a drand round that
        came out before the freeze or is yet to come; InvalidState before the freeze, where none was named,
        and where something else was entered before.
        """
        owner = await queries.find_owner(self._stores.pool, event_id=event_id)
        if owner is None:
            raise NotFound
        check_owner(actor, owner)
        cell_id = ids.cell_of(event_id)
        lottery = await find_lottery(self._stores.pool, cell_id)
        if lottery.public_round is None:
            raise InvalidState("No public round was named for this draw", details={"status": "drawn"})
        if public_round != lottery.public_round:
            raise ValidationFailed("round", f"is not the one that was named: {lottery.public_round}")
        drand = _drand_round(public_round, randomness, signature)
        if lottery.root is None or lottery.frozen_at_ms is None:
            raise InvalidState("The entrants are not frozen yet", details={"status": "registered"})
        # Seconds of computing: last of all, and only where it may be taken yet.
        is_checked = False
        if drand is not None and lottery.randomness is None:
            is_checked = await _check_drand(drand, lottery.frozen_at_ms, signature)
        await queries.record_randomness(
            self._stores.pool,
            randomness=randomness,
            signature=signature,
            is_signature_checked=is_checked,
            event_ref=cell_id.event_ref,
            cell=cell_id.cell,
        )
        failpoint("draw.after_randomness")
        lottery = await find_lottery(self._stores.pool, cell_id)
        if lottery.randomness != randomness:
            raise InvalidState("Another value was entered for this round", details={"status": "entered"})
        return lottery


def _check(lottery: Lottery) -> None:
    """Raise DrawBroken unless the key is made of what is published with it."""
    if lottery.root is None or lottery.key is None:
        raise DrawBroken(f"{tag(lottery.cell_id)}: root or key is gone")
    made = draw_key(lottery.seed, lottery.root, lottery.randomness or b"")
    if made != lottery.key or commitment(lottery.seed) != lottery.commitment:
        raise DrawBroken(f"{tag(lottery.cell_id)}: the key is not made of seed, root and randomness")


def _drand_round(public_round: str, randomness: bytes, signature: bytes | None) -> rounds.DrandRound | None:
    """The round of drand that it is, if it is one; raises ValidationFailed for what it cannot have said."""
    try:
        rounds.check_value(public_round, randomness, signature)
        return rounds.drand_round(public_round)
    except ValueError as error:
        raise ValidationFailed("randomness", str(error)) from None


async def _check_drand(drand: rounds.DrandRound, frozen_at_ms: int, signature: bytes | None) -> bool:
    """Whether the signature was checked; raises ValidationFailed for one that the chain did not make, and for
    a round that came out before the freeze or did not yet."""
    if drand.at_s is not None:
        _check_time(MS_PER_S * drand.at_s, frozen_at_ms)
        if signature is None:
            raise ValidationFailed("signature", "is needed: that of this chain can be checked by everybody")
    if signature is None:
        return False
    check = partial(rounds.is_signed, drand, signature)
    is_signed = await asyncio.get_running_loop().run_in_executor(_one_at_a_time, check)
    if is_signed is False:
        raise ValidationFailed("signature", "was not made by that chain for that round")
    if is_signed is None:
        why = rounds.why_unchecked(drand)
        log.warning("a signature of drand round %d was not checked: it %s", drand.number, why)
    return is_signed is True


def _check_time(at_ms: int, frozen_at_ms: int) -> None:
    if at_ms <= frozen_at_ms:
        said = f"came out at {rfc3339(at_ms)}, before the entrants were frozen at {rfc3339(frozen_at_ms)}"
        raise ValidationFailed("round", said)
    if at_ms > MS_PER_S * time.time():
        raise ValidationFailed("round", f"comes out at {rfc3339(at_ms)}: nobody can know it yet")
