"""The draw of a waiting room, as mathematics: anyone who has the public data gets the same places.

Three parts, all of SHA-256 (FIPS 180-4) and nothing else. A seed that the house commits to before anybody
joins. A Merkle tree (RFC 6962, section 2.1) over the entrants' pseudonyms, in the order of their numbers: its
root says who takes part, and can be proved to each of them. And a permutation of 1…N that a key decides: a
generalised Feistel network with cycle walking (Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
2002). The key is made of seed, root, and randomness that nobody knew when the entrants were frozen.
"""

import hashlib
import hmac
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from uuid import UUID

ROUNDS = 10
SIDE_MIN = 32
"""The shorter side of the network, at least: each two rounds divide by it what is left of a pair's first
order. With sides of 3 and 2, which would do for six people, ten rounds leave pairs 3 % off; with 32 it is a
millionth."""
DIGEST_BYTES = 32
WITHDRAWN = bytes(DIGEST_BYTES)
"""The leaf of a number that nobody has any more."""
ENTRANTS_MAX = 100_000_000
"""The tables of so many take about a second, and 10 MB."""
CHUNK_LEAVES = 1_024
"""A power of two: so many leaves, from a multiple of it on, are a tree of their own within the whole one."""
PERMUTATIONS_MAX = 64

ALGORITHM = (
    "key = SHA-256(seed || root || randomness); "
    f"a = max({SIDE_MIN}, ceil(sqrt(N))), b = max({SIDE_MIN}, ceil(N / a)); "
    f"x = number - 1; L = x mod a, R = floor(x / a); for i in 1..{ROUNDS}: i odd: L = (L + F(i, R)) mod a, "
    "i even: R = (R + F(i, L)) mod b; x = a * R + L, and all of it again while x >= N; place = x + 1; "
    "F(i, v) = the first 8 bytes of HMAC-SHA-256(key, i as 1 byte || v as 8 bytes); all numbers big-endian"
)
"""Said with every published draw: enough to write it again."""


def commitment(seed: bytes) -> bytes:
    """What is published of a seed beforehand: its SHA-256."""
    return hashlib.sha256(seed).digest()


def draw_key(seed: bytes, root: bytes, randomness: bytes) -> bytes:
    """The 32 bytes that decide everybody's place; `randomness` is b"" where no public round was named.

    Raises ValueError unless seed and root have 32 bytes: then no two triples are the same text.
    """
    if len(seed) != DIGEST_BYTES or len(root) != DIGEST_BYTES:
        raise ValueError("seed and root have 32 bytes each")
    return hashlib.sha256(seed + root + randomness).digest()


def pseudonym(event_id: UUID, user_id: UUID) -> bytes:
    """By what name an entrant is published: who knows the user's id finds it, nobody finds the id from it."""
    return hashlib.sha256(b"rush entrant" + event_id.bytes + user_id.bytes).digest()


def leaf_hash(leaf: bytes) -> bytes:
    """RFC 6962: a leaf begins with 0, so that no inner node is ever taken for one."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962: an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def _parents(hashes: Sequence[bytes]) -> list[bytes]:
    # Of an odd number the last one goes up as it is: that is RFC 6962's tree, level by level.
    sha256 = hashlib.sha256
    pairs = zip(hashes[::2], hashes[1::2], strict=False)
    above = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
    if len(hashes) % 2:
        above.append(hashes[-1])
    return above


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root over these leaf hashes, or over all chunks' roots; of none it is SHA-256 of nothing."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    while len(hashes) > 1:
        hashes = _parents(hashes)
    return hashes[0]


def chunk_roots(leaves: Iterable[bytes]) -> list[bytes]:
    """The roots of each CHUNK_LEAVES leaves, the last one of fewer; `root_of` them is the root of all."""
    roots, chunk = [], []
    for leaf in leaves:
        chunk.append(leaf_hash(leaf))
        if len(chunk) == CHUNK_LEAVES:
            roots.append(root_of(chunk))
            chunk = []
    if chunk:
        roots.append(root_of(chunk))
    return roots


def levels_of(hashes: Sequence[bytes]) -> list[bytes]:
    """A tree to take many paths from: its levels from the bottom up, the hashes of each one joined."""
    levels = [b"".join(hashes)]
    while len(hashes) > 1:
        hashes = _parents(hashes)
        levels.append(b"".join(hashes))
    return levels


def path_in(levels: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of one of the hashes at the bottom: its neighbours, from the bottom up."""
    if not 0 <= index < len(levels[0]) // DIGEST_BYTES:
        raise ValueError(f"there is no leaf {index}")
    path = []
    for level in levels[:-1]:
        neighbour = level[(index ^ 1) * DIGEST_BYTES : (index ^ 1) * DIGEST_BYTES + DIGEST_BYTES]
        if neighbour:
            path.append(neighbour)
        index //= 2
    return path


def proof_in(chunk: Sequence[bytes], roots: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf `index` of all, from the levels of its chunk and of the tree of chunk roots."""
    which, within = divmod(index, CHUNK_LEAVES)
    return path_in(chunk, within) + path_in(roots, which)


def proof_of(chunk: Sequence[bytes], roots: Sequence[bytes], index: int) -> list[bytes]:
    """The same from the leaves of the chunk and all chunk roots."""
    return proof_in(levels_of([leaf_hash(leaf) for leaf in chunk]), levels_of(roots), index)


def root_by(leaf: bytes, index: int, entrants: int, path: Sequence[bytes]) -> bytes:
    """The root that this audit path leads to (RFC 9162, 2.1.3.2); raises ValueError if none."""
    if not 0 <= index < entrants:
        raise ValueError(f"there is no leaf {index} among {entrants}")
    found, last = leaf_hash(leaf), entrants - 1
    for neighbour in path:
        if last == 0:
            raise ValueError("the proof is too long")
        if index % 2 or index == last:
            found = node_hash(neighbour, found)
            while index % 2 == 0 and index:
                index, last = index // 2, last // 2
        else:
            found = node_hash(found, neighbour)
        index, last = index // 2, last // 2
    if last:
        raise ValueError("the proof is too short")
    return found


def is_included(leaf: bytes, index: int, entrants: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether this path proves that the leaf stands at `index` (from 0) in the tree with that root."""
    try:
        return root_by(leaf, index, entrants, path) == root
    except ValueError:
        return False


class Permutation:
    """Numbers 1…N to places 1…N and back, as the key decides.

    A number is a pair (L, R) of Z_a and Z_b. Each round adds to one half what a keyed function says of the
    other, which can be taken back; ten rounds of it leave no trace of the order. What falls into a pair
    beyond N goes through again until it does not: that is a permutation again.
    """

    def __init__(self, key: bytes, entrants: int) -> None:
        """Raises ValueError for a key that has not 32 bytes, or for more than ENTRANTS_MAX."""
        if len(key) != DIGEST_BYTES:
            raise ValueError("the key has 32 bytes")
        if not 0 <= entrants <= ENTRANTS_MAX:
            raise ValueError(f"{entrants} entrants: between 0 and {ENTRANTS_MAX}")
        self.key = key
        self.entrants = entrants
        self._a = max(SIDE_MIN, math.isqrt(max(entrants, 1) - 1) + 1)
        self._b = max(SIDE_MIN, -(-entrants // self._a))
        # Of each round all values at once: they are few, and a million people ask for the same ones.
        self._tables = [
            self._table(number, self._b, self._a) if number % 2 else self._table(number, self._a, self._b)
            for number in range(1, ROUNDS + 1)
        ]

    def _table(self, number: int, values: int, modulus: int) -> list[int]:
        digest, first = hmac.digest, bytes([number])
        return [
            int.from_bytes(digest(self.key, first + value.to_bytes(8), "sha256")[:8]) % modulus
            for value in range(values)
        ]

    def place_of(self, number: int) -> int:
        """The place of a number; raises ValueError for a number that took no part."""
        self._check(number)
        a, b, found = self._a, self._b, number - 1
        while True:
            right, left = divmod(found, a)
            for of_left, of_right in zip(self._tables[::2], self._tables[1::2], strict=True):
                left = (left + of_left[right]) % a
                right = (right + of_right[left]) % b
            found = a * right + left
            if found < self.entrants:
                return found + 1

    def number_of(self, place: int) -> int:
        """Whose place it is; raises ValueError for a place behind the draw's."""
        self._check(place)
        a, b, found = self._a, self._b, place - 1
        while True:
            right, left = divmod(found, a)
            for of_left, of_right in zip(self._tables[-2::-2], self._tables[::-2], strict=True):
                right = (right - of_right[left]) % b
                left = (left - of_left[right]) % a
            found = a * right + left
            if found < self.entrants:
                return found + 1

    def _check(self, value: int) -> None:
        if not 1 <= value <= self.entrants:
            raise ValueError(f"{value} is not between 1 and {self.entrants}")


@lru_cache(maxsize=PERMUTATIONS_MAX)
def permutation(key: bytes, entrants: int) -> Permutation:
    """The permutation of a draw, remembered: its tables take 20 ms for a million entrants."""
    return Permutation(key, entrants)
