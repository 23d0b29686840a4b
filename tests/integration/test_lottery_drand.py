"""A draw whose public round is one of drand: only what it signed, and in time, is taken."""

import asyncio
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.errors import InvalidState, ValidationFailed
from engine.times import from_ms
from engine.waiting import draw as drawing
from engine.waiting import randomness as rounds
from engine.waiting.draw import Stage
from engine.waiting.entrants import Lottery
from engine.waiting.published import UNCHECKED, UNFORESEEN, PublishedDraw
from tests.integration.kit import Rig
from tests.integration.test_lottery import ADMIN, Draw, open_draw

QUICKNET = "drand:52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"
ROUND = f"{QUICKNET}:657413"
ROUND_AT_MS = 1_694_775_603_000
SIGNATURE = bytes.fromhex(
    "b713718a38ae728dfd477991af2822e08d2f305e47718cef9f7848ce4050e7be41076862b98fad56e91a6b85b89cd97b"
)
FORGED = SIGNATURE[:1] + bytes(47)
OTHER_CHAIN = f"drand:{'ab' * 32}:7"


async def opened(rig: Rig, public_round: str = ROUND) -> Draw:
    rig.work()
    draw = await open_draw(rig, public_round)
    await draw.join(3)
    return draw


async def frozen(rig: Rig, draw: Draw, at_ms: int | None = ROUND_AT_MS - 1) -> Draw:
    """Frozen with its root there; as if that had been at `at_ms`."""
    await draw.freeze()
    await draw.until_frozen()
    assert await draw.draws.advance(draw.event.cell) is Stage.AWAITS_RANDOMNESS
    if at_ms is not None:
        await rig.pool.execute("UPDATE waiting_rooms SET frozen_at = $1", from_ms(at_ms))
    return draw


async def enter(draw: Draw, signature: bytes | None = SIGNATURE, **changes: Any) -> Lottery:
    value = changes.get("value", hashlib.sha256(signature or SIGNATURE).digest())
    return await draw.draws.enter_randomness(
        ADMIN, draw.event.id, changes.get("public_round", ROUND), value, signature
    )


async def refused_field(draw: Draw, signature: bytes | None = SIGNATURE, **changes: Any) -> str:
    with pytest.raises(ValidationFailed) as caught:
        await enter(draw, signature, **changes)
    return str(caught.value.details["field"])


async def test_what_drand_did_not_sign_is_not_taken(rig: Rig) -> None:
    draw = await frozen(rig, await opened(rig))
    draw_before = await draw.row()
    assert await refused_field(draw, None) == "signature"
    assert await refused_field(draw, FORGED) == "signature"
    assert await refused_field(draw, value=b"7 11") == "randomness"
    assert (await draw.row()).randomness is None
    entered = await enter(draw)
    assert entered.is_signature_checked
    published = PublishedDraw.of(entered)
    assert published.is_signature_checked
    assert published.proves.endswith(UNFORESEEN)
    assert not PublishedDraw.of(draw_before).proves.endswith(UNFORESEEN)
    assert await draw.draws.advance(draw.event.cell) is Stage.DRAWN


@pytest.mark.parametrize("late_ms", [0, 1])
async def test_a_round_that_was_out_at_the_freeze_is_not_taken(rig: Rig, late_ms: int) -> None:
    draw = await frozen(rig, await opened(rig), ROUND_AT_MS + late_ms)
    assert await refused_field(draw) == "round"


async def test_a_round_that_is_yet_to_come_is_not_taken(rig: Rig) -> None:
    public_round = f"{QUICKNET}:900000000"
    draw = await frozen(rig, await opened(rig, public_round), None)
    assert await refused_field(draw, public_round=public_round) == "round"


async def test_a_signature_is_checked_only_where_all_else_is_good(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[bytes] = []
    monkeypatch.setattr(rounds, "is_signed", lambda _, signature: not checked.append(signature))
    draw = await opened(rig)
    with pytest.raises(InvalidState, match="not frozen"):
        await enter(draw)
    await frozen(rig, draw, ROUND_AT_MS)
    await refused_field(draw)
    await refused_field(draw, public_round=f"{QUICKNET}:657414")
    await refused_field(draw, value=b"7 11")
    assert checked == []
    await rig.pool.execute("UPDATE waiting_rooms SET frozen_at = $1", from_ms(ROUND_AT_MS - 1))
    await enter(draw)
    # It is there: the same again is answered, another refused, and neither is looked at.
    await enter(draw)
    with pytest.raises(InvalidState, match="Another value"):
        await enter(draw, FORGED)
    assert checked == [SIGNATURE]


async def test_where_nothing_can_check_a_signature_that_is_said(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rounds, "can_check_signatures", lambda: False)
    draw = await frozen(rig, await opened(rig))
    assert PublishedDraw.of(await draw.row()).is_signature_checked is None
    published = PublishedDraw.of(await enter(draw, FORGED))
    assert published.is_signature_checked is False
    assert published.proves.endswith(UNCHECKED)
    assert "was not checked: it needs py_ecc" in caplog.text


@pytest.mark.parametrize("signature", [None, SIGNATURE])
async def test_a_chain_that_nobody_knows_here_is_taken_unchecked(rig: Rig, signature: bytes | None) -> None:
    draw = await frozen(rig, await opened(rig, OTHER_CHAIN), None)
    entered = await enter(draw, signature, public_round=OTHER_CHAIN)
    assert not entered.is_signature_checked
    assert PublishedDraw.of(entered).proves.endswith(UNCHECKED)


@pytest.mark.parametrize("workers", [1, 2])
async def test_signatures_are_checked_one_at_a_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """With two threads, the negative control, two are checked at once."""
    draw = await frozen(rig, await opened(rig))
    inside, lock, together = [0], threading.Lock(), threading.Event()

    def is_signed(*_: Any) -> bool:
        with lock:
            inside[0] += 1
            if inside[0] > 1:
                together.set()
        together.wait(0.2)
        with lock:
            inside[0] -= 1
        return True

    monkeypatch.setattr(rounds, "is_signed", is_signed)
    if workers > 1:
        monkeypatch.setattr(drawing, "_one_at_a_time", ThreadPoolExecutor(workers))
    await asyncio.gather(*[enter(draw) for _ in range(3)])
    assert together.is_set() == (workers > 1)
