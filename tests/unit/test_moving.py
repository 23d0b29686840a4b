"""Who is gone by place follows who is gone by number, and places nobody twice."""

import asyncio
import hashlib

from hypothesis import given
from hypothesis import strategies as st

from engine.waiting import moving
from engine.waiting.lottery import Permutation
from engine.waiting.moving import Moving, ones

KEY = hashlib.sha256(b"key").digest()


def bitmap(bits: set[int]) -> bytes:
    made = bytearray(max(bits, default=-1) // 8 + 1)
    for bit in bits:
        made[bit // 8] |= 0x80 >> bit % 8
    return bytes(made)


@given(st.sets(st.integers(0, 300)))
def test_the_ones_of_a_bitmap_are_found(bits: set[int]) -> None:
    assert list(ones(bitmap(bits))) == sorted(bits)


@given(st.integers(0, 70), st.lists(st.sets(st.integers(1, 90)), max_size=4))
def test_it_is_what_one_look_at_all_would_be(entrants: int, looks: list[set[int]]) -> None:
    """Also where a look shows fewer than the one before."""
    moved, drawn = Moving(KEY, entrants), Permutation(KEY, entrants)
    for gone in looks:
        count, by_place = asyncio.run(moved.follow(bitmap({number - 1 for number in gone})))
        assert count == len(gone)
        assert len(by_place) == (entrants + 7) // 8
        places = {drawn.place_of(number) for number in gone if number <= entrants}
        assert {bit + 1 for bit in ones(by_place)} == places


async def test_others_work_while_many_are_placed() -> None:
    entrants, turns = 10 * moving.SLICE, 0

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(work())
    moved = Moving(KEY, entrants)
    everybody = b"\xff" * (entrants // 8)
    count, by_place = await moved.follow(everybody)
    assert (count, by_place) == (entrants, everybody)
    assert turns >= 10
    # And once they are placed, another look gives nobody else a turn: nothing is computed again.
    before = turns
    await moved.follow(everybody)
    assert turns == before
    other.cancel()
