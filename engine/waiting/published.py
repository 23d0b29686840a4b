"""A draw as everybody sees it: what the gateway answers, and all that is needed to compute it again."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from engine.times import rfc3339
from engine.waiting.entrants import Lottery
from engine.waiting.lottery import ALGORITHM
from engine.waiting.proofs import Proof
from engine.waiting.randomness import drand_round

Hex = Annotated[str, Meta(pattern="^([0-9a-f]{2})*$")]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="32 bytes in hex")]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]

UNCHANGED = (
    "Once commitment and root are public, neither the entrants nor the seed can be changed unnoticed. "
    "A draw whose seed is not revealed is void."
)
UNFORESEEN = (
    " The named round came out after the freeze, and its signature was checked: nobody, the house included, "
    "could know or choose a place before."
)
UNCHECKED = (
    " Nobody checked here what the named round says, and that nobody could know it at the freeze: compare "
    "with what its publisher says, and when."
)
FORESEEN = (
    " No public round was named: it is not proved that the house, which knew the seed, let nobody "
    "join or leave to get other places."
)


class PublishedDraw(msgspec.Struct, frozen=True, kw_only=True):
    """A lottery; its entrants are a list beside it, one pseudonym a line in the order of numbers."""

    event_id: UUID
    status: Literal["open", "frozen", "drawn"]
    commitment: Digest
    public_round: str | None
    opens_at: Time | None = None
    entrants: int | None
    frozen_at: Time | None
    root: Digest | None
    randomness: Hex | None
    signature: Hex | None
    is_signature_checked: bool | None = None
    """Whether the house checked it against the key of its chain; None without one."""
    seed: Digest | None
    """Only once it cannot help anybody any more: with the key."""
    key: Digest | None
    drawn_at: Time | None
    algorithm: str = ALGORITHM
    proves: str

    @classmethod
    def of(cls, lottery: Lottery) -> "PublishedDraw":
        """The lottery as it is shown now."""
        is_drawn, is_frozen = lottery.key is not None, lottery.root is not None
        return cls(
            event_id=lottery.event_id,
            status="drawn" if is_drawn else "frozen" if is_frozen else "open",
            commitment=lottery.commitment.hex(),
            public_round=lottery.public_round,
            opens_at=_time(lottery.opens_at_ms),
            entrants=lottery.entrants if is_frozen else None,
            frozen_at=_time(lottery.frozen_at_ms) if is_frozen else None,
            root=_hex(lottery.root),
            randomness=_hex(lottery.randomness),
            signature=_hex(lottery.signature),
            is_signature_checked=None if lottery.signature is None else lottery.is_signature_checked,
            seed=lottery.seed.hex() if is_drawn else None,
            key=_hex(lottery.key),
            drawn_at=_time(lottery.drawn_at_ms),
            proves=UNCHANGED + _foreseen(lottery),
        )


class PublishedProof(msgspec.Struct, frozen=True, kw_only=True):
    """That somebody takes part: their leaf, and what to hash it with, from the bottom up (RFC 6962)."""

    event_id: UUID
    number: int
    leaf: Digest
    path: list[Digest]
    entrants: int
    root: Digest
    place: int | None
    """Where the draw put them, once drawn."""

    @classmethod
    def of(cls, proof: Proof) -> "PublishedProof":
        """The proof as it is shown."""
        lottery = proof.lottery
        assert lottery.root is not None
        return cls(
            event_id=lottery.event_id,
            number=proof.number,
            leaf=proof.leaf.hex(),
            path=[step.hex() for step in proof.path],
            entrants=lottery.entrants or 0,
            root=lottery.root.hex(),
            place=lottery.place_of(proof.number),
        )


def _foreseen(lottery: Lottery) -> str:
    if lottery.public_round is None:
        return FORESEEN
    drand = drand_round(lottery.public_round)
    at_s = None if drand is None else drand.at_s
    is_later = at_s is not None and lottery.frozen_at_ms is not None and 1_000 * at_s > lottery.frozen_at_ms
    return UNFORESEEN if is_later and lottery.is_signature_checked else UNCHECKED


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)
