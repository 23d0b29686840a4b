"""The draw of a simulated sale, as an installation would publish it: for `rush verify-lottery`."""

import random
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import msgspec

from engine import ids
from engine.waiting.entrants import Lottery
from engine.waiting.lottery import (
    DIGEST_BYTES,
    WITHDRAWN,
    chunk_roots,
    commitment,
    draw_key,
    pseudonym,
    root_of,
)
from engine.waiting.published import PublishedDraw

FILES = ("lottery.json", "entrants.txt")


class SimulatedDraw:
    """A draw without a public round: a simulation has none to wait for."""

    def __init__(self, event_id: UUID, users: Sequence[str | None], seed: int, at_ms: int) -> None:
        """`users` are the entrants in the order of their numbers, None for who has left."""
        self._leaves = [WITHDRAWN if user is None else pseudonym(event_id, UUID(user)) for user in users]
        secret = random.Random(seed).randbytes(DIGEST_BYTES)
        root = root_of(chunk_roots(self._leaves))
        self.key = draw_key(secret, root, b"")
        self._lottery = Lottery(
            event_id=event_id,
            cell_id=ids.cell_of(event_id),
            commitment=commitment(secret),
            seed=secret,
            public_round=None,
            opens_at_ms=at_ms,
            randomness=None,
            signature=None,
            entrants=len(users),
            frozen_at_ms=at_ms,
            root=root,
            key=self.key,
            drawn_at_ms=at_ms,
        )

    def write(self, folder: Path) -> list[Path]:
        """The two files that everybody could download."""
        paths = [folder / name for name in FILES]
        published = msgspec.json.encode(PublishedDraw.of(self._lottery))
        paths[0].write_bytes(msgspec.json.format(published, indent=2))
        with paths[1].open("w", encoding="ascii") as file:
            file.writelines(f"{leaf.hex()}\n" for leaf in self._leaves)
        return paths
