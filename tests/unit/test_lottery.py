"""The draw as mathematics: places are a permutation and fair, and the tree is RFC 6962's."""

import hashlib
import hmac
import itertools
import math
import time
from collections import Counter
from collections.abc import Sequence
from uuid import UUID

import pytest

from engine.waiting import lottery
from engine.waiting.lottery import Permutation

SIZES = (1, 2, 3, 4, 5, 7, 16, 31, 64, 100, 961, 997, 1000, 1024, 1025, 1056, 1057, 4096, 10_007, 65_537)
EVENT, USER = UUID("2443ba9b-35ff-8000-8000-000000000000"), UUID("7d0a7a5e-0d4c-4a3e-9b0a-0123456789ab")


def key_of(number: int) -> bytes:
    """The keys of these tests are the same in every run: what is likely was seen to be so."""
    return hashlib.sha256(b"key %d" % number).digest()


def deviation(counts: Counter[object], cells: int) -> float:
    """Chi-square against all cells alike, in standard deviations from what is expected."""
    total = sum(counts.values())
    expected = total / cells
    seen = sum((count - expected) ** 2 / expected for count in counts.values())
    seen += (cells - len(counts)) * expected
    return (seen - (cells - 1)) / math.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("entrants", SIZES)
def test_everybody_has_one_place_and_every_place_one_person(entrants: int) -> None:
    drawn = Permutation(key_of(entrants), entrants)
    places = [drawn.place_of(number) for number in range(1, entrants + 1)]
    assert sorted(places) == list(range(1, entrants + 1))
    assert [drawn.number_of(place) for place in places] == list(range(1, entrants + 1))


def test_the_places_of_a_known_key_never_change() -> None:
    # A published draw is checked years later, by another version: these places are for ever.
    drawn = Permutation(bytes(range(32)), 10)
    assert [drawn.place_of(number) for number in range(1, 11)] == [3, 4, 5, 10, 8, 6, 1, 9, 7, 2]
    assert Permutation(bytes(range(32)), 1_000_000).place_of(1) == 200_832


def written_again(key: bytes, entrants: int, number: int) -> int:
    """The published algorithm, read from its text and written as plainly as it can be."""
    side = next(side for side in itertools.count() if side * side >= entrants)
    a = max(32, side)
    b = max(32, math.ceil(entrants / a))
    x = number - 1
    while True:
        left, right = x % a, x // a
        for i in range(1, 11):
            half = right if i % 2 else left
            digest = hmac.new(key, i.to_bytes(1, "big") + half.to_bytes(8, "big"), "sha256").digest()
            if i % 2:
                left = (left + int.from_bytes(digest[:8], "big")) % a
            else:
                right = (right + int.from_bytes(digest[:8], "big")) % b
        x = a * right + left
        if x < entrants:
            return x + 1


@pytest.mark.parametrize("entrants", [1, 2, 6, 1000, 1057, 65_537])
def test_the_published_text_is_enough_to_write_it_again(entrants: int) -> None:
    drawn = Permutation(key_of(1), entrants)
    for number in {1, 2, entrants // 2, entrants} - {0}:
        if number <= entrants:
            assert drawn.place_of(number) == written_again(key_of(1), entrants, number)
    assert "a = max(32, ceil(sqrt(N))), b = max(32, ceil(N / a))" in lottery.ALGORITHM
    assert "for i in 1..10" in lottery.ALGORITHM


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_has_32_bytes(key: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Permutation(key, 10)


def test_who_took_no_part_has_no_place() -> None:
    drawn = Permutation(key_of(0), 10)
    for number in (0, 11, -1):
        with pytest.raises(ValueError):
            drawn.place_of(number)
        with pytest.raises(ValueError):
            drawn.number_of(number)
    with pytest.raises(ValueError):
        Permutation(key_of(0), 0).place_of(1)


@pytest.mark.parametrize(("entrants", "seeds"), [(2, 400), (3, 800), (4, 1200), (5, 2400)])
def test_every_order_of_a_few_is_as_likely_as_any_other(entrants: int, seeds: int) -> None:
    orders: Counter[object] = Counter()
    for seed in range(seeds):
        drawn = Permutation(key_of(seed), entrants)
        orders[tuple(drawn.place_of(number) for number in range(1, entrants + 1))] += 1
    assert abs(deviation(orders, math.factorial(entrants))) < 4


ENTRANTS = 24
SEEDS = 3000


def test_a_persons_place_is_uniform_and_so_is_that_of_two_people() -> None:
    single: dict[int, Counter[object]] = {number: Counter() for number in (1, 2, 12, 24)}
    pairs: dict[tuple[int, int], Counter[object]] = {(1, 2): Counter(), (1, 24): Counter(), (7, 8): Counter()}
    for seed in range(SEEDS):
        drawn = Permutation(key_of(seed), ENTRANTS)
        for number, places in single.items():
            places[drawn.place_of(number)] += 1
        for (one, other), both in pairs.items():
            both[drawn.place_of(one), drawn.place_of(other)] += 1
    assert all(abs(deviation(places, ENTRANTS)) < 4 for places in single.values())
    assert all(abs(deviation(both, ENTRANTS * (ENTRANTS - 1))) < 4 for both in pairs.values())


def test_fewer_rounds_would_have_been_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    # The negative control. Without walking through a larger network: that alone mixes a few people well.
    monkeypatch.setattr(lottery, "ROUNDS", 4)
    monkeypatch.setattr(lottery, "SIDE_MIN", 1)
    both: Counter[object] = Counter()
    for seed in range(SEEDS):
        drawn = Permutation(key_of(seed), ENTRANTS)
        both[drawn.place_of(7), drawn.place_of(8)] += 1
    assert deviation(both, ENTRANTS * (ENTRANTS - 1)) > 10


def test_sides_as_short_as_they_could_be_would_have_been_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lottery, "SIDE_MIN", 1)
    both: Counter[object] = Counter()
    for seed in range(20_000):
        drawn = Permutation(key_of(seed), 6)
        both[drawn.place_of(1), drawn.place_of(2)] += 1
    assert deviation(both, 30) > 8


def test_who_came_first_and_who_is_drawn_first_have_nothing_to_do_with_each_other() -> None:
    entrants, bins = 100_003, 50
    drawn = Permutation(key_of(5), entrants)
    places = [drawn.place_of(number) for number in range(1, entrants + 1)]
    cells: Counter[object] = Counter(
        ((number - 1) * bins // entrants, (place - 1) * bins // entrants)
        for number, place in enumerate(places, 1)
    )
    assert abs(deviation(cells, bins * bins)) < 4
    ascents = sum(one < other for one, other in itertools.pairwise(places))
    # Of N places in a random order, (N - 1) / 2 ascents, with a variance of (N + 1) / 12.
    assert abs(ascents - (entrants - 1) / 2) < 4 * math.sqrt((entrants + 1) / 12)


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, 2.1, word by word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    half = next(2**n for n in itertools.count() if 2**n < len(leaves) <= 2 ** (n + 1))
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:half]) + tree_hash(leaves[half:])).digest()


def audit_path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1, word by word."""
    if len(leaves) == 1:
        return []
    half = next(2**n for n in itertools.count() if 2**n < len(leaves) <= 2 ** (n + 1))
    if index < half:
        return [*audit_path(index, leaves[:half]), tree_hash(leaves[half:])]
    return [*audit_path(index - half, leaves[half:]), tree_hash(leaves[:half])]


def leaves_of(count: int) -> list[bytes]:
    return [hashlib.sha256(b"leaf %d" % number).digest() for number in range(count)]


def chunk_of(leaves: Sequence[bytes], index: int) -> Sequence[bytes]:
    first = index - index % lottery.CHUNK_LEAVES
    return leaves[first : first + lottery.CHUNK_LEAVES]


@pytest.mark.parametrize("count", [*range(34), 63, 64, 65])
def test_every_leaf_of_a_tree_can_be_proved(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Chunks of four, so that small trees have many.
    monkeypatch.setattr(lottery, "CHUNK_LEAVES", 4)
    leaves = leaves_of(count)
    roots = lottery.chunk_roots(leaves)
    root = lottery.root_of(roots)
    assert root == tree_hash(leaves) == lottery.root_of([lottery.leaf_hash(leaf) for leaf in leaves])
    for index, leaf in enumerate(leaves):
        path = lottery.proof_of(chunk_of(leaves, index), roots, index)
        assert path == audit_path(index, leaves)
        assert lottery.is_included(leaf, index, count, path, root)
        for wrong in range(count):
            assert lottery.is_included(leaf, wrong, count, path, root) == (wrong == index)
        assert not lottery.is_included(leaf, index, count, [*path, root], root)
        assert not path or not lottery.is_included(leaf, index, count, path[:-1], root)
        assert not lottery.is_included(lottery.WITHDRAWN, index, count, path, root)


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 2047, 2048, 2049, 5000])
def test_chunks_of_the_size_in_use_are_trees_within_the_tree(count: int) -> None:
    leaves = leaves_of(count)
    roots = lottery.chunk_roots(leaves)
    assert len(roots) == -(-count // 1024)
    assert lottery.root_of(roots) == tree_hash(leaves)
    for index in {0, count // 2, count - 1}:
        path = lottery.proof_of(chunk_of(leaves, index), roots, index)
        assert path == audit_path(index, leaves)
        assert lottery.is_included(leaves[index], index, count, path, tree_hash(leaves))


def test_the_empty_tree_and_the_tree_of_one_are_those_of_the_rfc() -> None:
    assert lottery.root_of([]).hex().startswith("e3b0c44298fc1c149afbf4c8996fb924")
    assert lottery.leaf_hash(b"").hex().startswith("6e340b9cffb37a989ca544e6bb780a2c")


def test_no_other_entrant_seed_or_round_has_this_draw() -> None:
    leaves, seed, randomness = leaves_of(1000), key_of(1), key_of(2)
    root = lottery.root_of(lottery.chunk_roots(leaves))
    key = lottery.draw_key(seed, root, randomness)
    others = [
        lottery.draw_key(key_of(3), root, randomness),
        lottery.draw_key(seed, root, key_of(3)),
        lottery.draw_key(seed, root, b""),
        lottery.draw_key(root, seed, randomness),
    ]
    swapped = [leaves[1], leaves[0], *leaves[2:]]
    for changed in (leaves[:-1], [*leaves, leaves[0]], swapped, [lottery.WITHDRAWN, *leaves[1:]]):
        other_root = lottery.root_of(lottery.chunk_roots(changed))
        assert other_root != root
        others.append(lottery.draw_key(seed, other_root, randomness))
    assert len({key, *others}) == 9
    assert lottery.commitment(seed) != lottery.commitment(key_of(3))
    with pytest.raises(ValueError):
        lottery.draw_key(seed[:31], root, randomness)


def test_a_pseudonym_is_of_one_person_in_one_event() -> None:
    name = lottery.pseudonym(EVENT, USER)
    assert name == hashlib.sha256(b"rush entrant" + EVENT.bytes + USER.bytes).digest()
    assert len({name, lottery.pseudonym(USER, EVENT), lottery.pseudonym(EVENT, EVENT)}) == 3


def test_a_million_places_take_some_seconds() -> None:
    began_s = time.perf_counter()
    drawn = lottery.permutation(key_of(9), 1_000_000)
    tables_s = time.perf_counter() - began_s
    taken = bytearray(1_000_000)
    for number in range(1, 1_000_001):
        taken[drawn.place_of(number) - 1] = 1
    print(f"tables {tables_s * 1000:.0f} ms, 1,000,000 places {time.perf_counter() - began_s:.2f} s")
    assert taken.count(1) == 1_000_000
    assert lottery.permutation(key_of(9), 1_000_000) is drawn
