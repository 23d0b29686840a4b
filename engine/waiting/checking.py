"""A whole draw computed again, from public data alone: what `rush verify-lottery` says.

Nothing here asks a store or a gateway. Who does not trust this code either can write it again from the text
in `engine.waiting.lottery.ALGORITHM` and RFC 6962: it is about sixty lines.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

import msgspec

from engine.times import to_ms
from engine.waiting import randomness as rounds
from engine.waiting.lottery import (
    WITHDRAWN,
    Permutation,
    chunk_roots,
    commitment,
    draw_key,
    is_included,
    pseudonym,
    root_of,
)
from engine.waiting.published import PublishedDraw, PublishedProof

PROGRESS_EVERY = 50_000

_LINE = re.compile(rb"[0-9a-f]{64}\n?")

Progress = Callable[[str, int, int], None]
"""(what, how many of them are done, how many there are)."""


Noted = Literal["commitment", "round", "root"]
"""What a draw cannot be changed after, for who noted it in time."""
NO_ROUND = "none"
"""What somebody noted of a draw for which no round was named."""


class Unreadable(Exception):
    """What was given is no draw, or no list of entrants; the message says where."""


class Outcome(StrEnum):
    """What a check came to."""

    OK = "ok"
    FALSE = "FALSE"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was checked."""

    outcome: Outcome
    subject: str
    text: str


class Checked(msgspec.Struct):
    """A draw that was computed again."""

    draw: PublishedDraw
    findings: list[Finding]
    leaves: bytes
    """All leaves, one behind the other."""
    withdrawn: int
    permutation: Permutation | None
    """None where the draw cannot be computed."""
    is_unforeseen: bool
    """Whether the randomness is shown to be that of a round which came out after the freeze."""
    unnoted: list[Noted]
    """What nobody noted in time, as far as the caller says: of that the house may say what it likes now."""

    @property
    def is_good(self) -> bool:
        """Whether nothing is false."""
        return all(finding.outcome is not Outcome.FALSE for finding in self.findings)

    def say(self, is_true: bool, subject: str, true: str, false: str) -> bool:
        """Note what a check came to."""
        outcome = Outcome.OK if is_true else Outcome.FALSE
        self.findings.append(Finding(outcome, subject, true if is_true else false))
        return is_true

    def leaf(self, number: int) -> bytes:
        """The leaf of a number."""
        return self.leaves[32 * number - 32 : 32 * number]

    def number_of(self, leaf: bytes) -> int | None:
        """The number with this leaf."""
        at = -1
        while (at := self.leaves.find(leaf, at + 1)) >= 0:
            if at % 32 == 0:
                return at // 32 + 1
        return None


def leaves_of(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The leaves from a list of entrants; raises Unreadable for a line that is none."""
    for number, line in enumerate(lines, 1):
        if not _LINE.fullmatch(line):
            raise Unreadable(f"the entrants' line {number} is not 64 hex digits: {line[:80]!r}")
        yield bytes.fromhex(line[:64].decode())


def check_draw(
    draw: PublishedDraw,
    lines: Iterable[bytes],
    progress: Progress,
    *,
    event_id: UUID | None = None,
    noted: Mapping[Noted, str] | None = None,
    previous_signature: bytes | None = None,
) -> Checked:
    """Compute a draw again; raises Unreadable.

    `event_id` is whose draw it has to be: that of another event may be as good as any, and is not the answer.
    `noted` is what somebody wrote down in time: the commitment and the round (NO_ROUND where none was named)
    before the sale, the root before the round came out. The signature of a chained drand round needs the one
    before it to be checked.
    """
    leaves, root = _read(lines, draw.entrants or 0, progress)
    count = len(leaves) // 32
    checked = Checked(draw, [], leaves, 0, None, is_unforeseen=False, unnoted=[])
    if event_id is not None:
        checked.say(
            draw.event_id == event_id,
            "event",
            "is the one that was asked for",
            f"is not the one that was asked for: {event_id}",
        )
    _check_noted(checked, noted or {})
    _check_entrants(checked, root, count)
    _check_seed(checked)
    _check_randomness(checked, previous_signature)
    if draw.seed is not None and draw.root is not None:
        key = draw_key(bytes.fromhex(draw.seed), root, bytes.fromhex(draw.randomness or ""))
        is_key = draw.key == key.hex()
        if checked.say(
            is_key, "key", "is made of seed, root and randomness", "is not made of seed, root and randomness"
        ):
            checked.permutation = Permutation(key, count)
            _check_places(checked, progress)
    return checked


def _read(lines: Iterable[bytes], expected: int, progress: Progress) -> tuple[bytes, bytes]:
    """All leaves, and their root."""
    gathered = bytearray()

    def gather() -> Iterator[bytes]:
        for number, leaf in enumerate(leaves_of(lines), 1):
            gathered.extend(leaf)
            if number % PROGRESS_EVERY == 0:
                progress("entrants", number, max(number, expected))
            yield leaf

    root = root_of(chunk_roots(gather()))
    return bytes(gathered), root


def _check_noted(checked: Checked, noted: Mapping[Noted, str]) -> None:
    """Show all that has to be public in time, and hold against it what somebody noted then."""
    draw = checked.draw
    shown: dict[Noted, str] = {
        "commitment": draw.commitment,
        "round": draw.public_round or NO_ROUND,
        "root": draw.root or "not there",
    }
    for name, value in shown.items():
        if name in noted:
            is_it = noted[name] == value
            checked.say(
                is_it, name, f"{value}, as you noted", f"{value} is not what you noted: {noted[name]}"
            )
        else:
            checked.unnoted.append(name)
            checked.findings.append(Finding(Outcome.UNKNOWN, name, f"{value}: was it this in time?"))


def _check_entrants(checked: Checked, root: bytes, count: int) -> None:
    draw = checked.draw
    if draw.root is None or draw.entrants is None:
        checked.say(False, "entrants", "", "are not frozen yet: there is nothing to check")
        return
    checked.say(
        count == draw.entrants,
        "entrants",
        f"the list has all {count:,} numbers",
        f"the list has {count:,} numbers, the draw {draw.entrants:,}",
    )
    checked.say(
        draw.root == root.hex(),
        "root",
        "is the Merkle root of the list",
        "is not the Merkle root of the list",
    )
    _check_freeze(checked)
    seen: set[bytes] = set()
    twice = 0
    for number in range(1, count + 1):
        leaf = checked.leaf(number)
        if leaf == WITHDRAWN:
            checked.withdrawn += 1
        elif leaf in seen:
            twice += 1
        seen.add(leaf)
    checked.say(
        twice == 0, "entrants", "nobody has two numbers", f"{twice:,} numbers are somebody's second one"
    )


def _check_freeze(checked: Checked) -> None:
    opens_at, frozen_at = checked.draw.opens_at, checked.draw.frozen_at
    if opens_at is None or frozen_at is None:
        text = "was not before its time, if that is what was announced: opens_at or frozen_at is not there"
        checked.findings.append(Finding(Outcome.UNKNOWN, "freeze", text))
        return
    checked.say(
        datetime.fromisoformat(frozen_at) >= datetime.fromisoformat(opens_at),
        "freeze",
        f"at {frozen_at}, not before opens_at, {opens_at}",
        f"at {frozen_at}, before opens_at, {opens_at}: who came in between was put behind",
    )


def _check_seed(checked: Checked) -> None:
    draw = checked.draw
    if draw.seed is None:
        why = "is not revealed: nothing is drawn, and if it stays so the draw is void"
        checked.say(False, "seed", "", why)
    else:
        is_it = commitment(bytes.fromhex(draw.seed)).hex() == draw.commitment
        checked.say(
            is_it,
            "seed",
            "is the one that was committed to",
            "is not the one that was committed to: the draw is void",
        )


def _check_randomness(checked: Checked, previous_signature: bytes | None) -> None:
    draw = checked.draw
    if draw.public_round is None:
        if draw.randomness is not None:
            checked.say(False, "randomness", "", "is there, and no round was named beforehand")
        return
    if draw.randomness is None:
        checked.say(False, "randomness", "", f"of the round {draw.public_round} is not there")
        return
    value = bytes.fromhex(draw.randomness)
    signature = None if draw.signature is None else bytes.fromhex(draw.signature)
    try:
        drand = rounds.drand_round(draw.public_round)
        rounds.check_value(draw.public_round, value, signature)
    except ValueError as error:
        checked.say(False, "randomness", "", str(error))
        return
    if drand is None:
        text = f"compare it with what {draw.public_round!r} said: {draw.randomness}"
        checked.findings.append(Finding(Outcome.UNKNOWN, "randomness", text))
        return
    is_signed = _check_signature(checked, drand, signature, previous_signature)
    checked.is_unforeseen = _check_time(checked, drand) and is_signed


def _check_signature(
    checked: Checked, drand: rounds.DrandRound, signature: bytes | None, previous_signature: bytes | None
) -> bool:
    if signature is not None:
        checked.say(True, "randomness", "is the SHA-256 of the signature", "")
    signed = None if signature is None else rounds.is_signed(drand, signature, previous_signature)
    if signed is not None:
        return checked.say(
            signed,
            "signature",
            "is that of the chain, for this round",
            "is not that of the chain for this round",
        )
    if signature is None and drand.chain is not None:
        why = "was not given, and this chain signs every round: anything could be its randomness"
        return checked.say(False, "signature", "", why)
    unchecked = rounds.why_unchecked(drand, previous_signature)
    why = unchecked if signature is not None and unchecked else "was not given"
    text = f"{why}; compare with https://api.drand.sh/{drand.chain_hash}/public/{drand.number}"
    checked.findings.append(Finding(Outcome.UNKNOWN, "signature", text))
    return False


def _check_time(checked: Checked, drand: rounds.DrandRound) -> bool:
    frozen_at = checked.draw.frozen_at
    if drand.at_s is None or frozen_at is None:
        checked.findings.append(Finding(Outcome.UNKNOWN, "round", "when it came out is not known here"))
        return False
    frozen_at_s = to_ms(datetime.fromisoformat(frozen_at)) / 1000
    return checked.say(
        drand.at_s > frozen_at_s,
        "round",
        f"came out {drand.at_s - frozen_at_s:,.0f} s after the freeze",
        f"came out {frozen_at_s - drand.at_s:,.0f} s before the freeze: the house could have known it",
    )


def _check_places(checked: Checked, progress: Progress) -> None:
    assert checked.permutation is not None
    count = checked.permutation.entrants
    taken = bytearray(count)
    place_of = checked.permutation.place_of
    for number in range(1, count + 1):
        taken[place_of(number) - 1] = 1
        if number % PROGRESS_EVERY == 0:
            progress("places", number, count)
    checked.say(
        taken.count(1) == count,
        "places",
        f"all {count:,} computed, each is one number's",
        "are no permutation of the numbers",
    )


def check_person(checked: Checked, event_id: UUID, user_id: UUID, number: int | None) -> int | None:
    """Note whether this person takes part (with that number); their number."""
    leaf = pseudonym(event_id, user_id)
    if number is None:
        found = checked.number_of(leaf)
        checked.say(found is not None, "you", f"have the number {found}", "are not among the entrants")
        return found
    is_theirs = 1 <= number <= len(checked.leaves) // 32 and checked.leaf(number) == leaf
    checked.say(is_theirs, "you", f"have the number {number}", f"do not have the number {number} in the list")
    return number if is_theirs else None


def check_proof(checked: Checked, proof: PublishedProof) -> None:
    """Note whether a proof of inclusion holds, against the root of the draw and the list."""
    draw, leaf = checked.draw, bytes.fromhex(proof.leaf)
    holds = proof.event_id == draw.event_id and draw.root is not None and draw.entrants is not None
    holds = holds and is_included(
        leaf,
        proof.number - 1,
        draw.entrants or 0,
        [bytes.fromhex(step) for step in proof.path],
        bytes.fromhex(draw.root or ""),
    )
    checked.say(
        holds, "proof", f"leads from the number {proof.number} to the root", "does not lead to the root"
    )
    is_listed = 1 <= proof.number <= len(checked.leaves) // 32 and checked.leaf(proof.number) == leaf
    checked.say(is_listed, "proof", "is of the list's entry", "is not of the list's entry")
    if proof.place is not None:
        check_place(checked, proof.number, proof.place)


def check_place(checked: Checked, number: int, place: int) -> None:
    """Note whether the draw gave this number that place."""
    if checked.permutation is None or not 1 <= number <= checked.permutation.entrants:
        checked.say(False, "place", "", f"of the number {number} cannot be computed")
        return
    drawn = checked.permutation.place_of(number)
    checked.say(
        drawn == place,
        "place",
        f"{place} is what {number} drew",
        f"{place} is not what {number} drew: {drawn}",
    )
