"""`rush verify-lottery`: an honest draw is proved, and every lie in the public data is found."""

import dataclasses
import functools
import hashlib
import json
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from engine.waiting import randomness as rounds
from engine.waiting.lottery import (
    ALGORITHM,
    WITHDRAWN,
    Permutation,
    chunk_roots,
    commitment,
    draw_key,
    proof_of,
    pseudonym,
    root_of,
)
from engine.waiting.tickets import QueueSigner
from rush.cli import main

EVENT = UUID("2443ba9b-35ff-8000-8000-000000000000")
QUICKNET = "drand:52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971:657413"
SIGNATURE = "b713718a38ae728dfd477991af2822e08d2f305e47718cef9f7848ce4050e7be41076862b98fad56e91a6b85b89cd97b"
BEFORE_THE_ROUND = "2023-09-15T00:00:00.000Z"
AFTER_THE_ROUND = "2023-09-30T00:00:00.000Z"
SEED = hashlib.sha256(b"seed").digest()
ENTRANTS = 2500


@pytest.fixture(autouse=True)
def _remembered_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """To check one takes seconds, and most lies leave it as it is."""
    monkeypatch.setattr(rounds, "is_signed", _is_signed)


_is_signed = functools.cache(rounds.is_signed)


def user(number: int) -> UUID:
    return UUID(int=number)


@dataclasses.dataclass
class Case:
    """A draw in two files, and what is to be changed of it."""

    folder: Path
    leaves: list[bytes]
    public_round: str | None = None

    def published(self) -> dict[str, Any]:
        root = root_of(chunk_roots(self.leaves))
        signature = bytes.fromhex(SIGNATURE)
        value = hashlib.sha256(signature).digest() if self.public_round else b""
        return {
            "event_id": str(EVENT),
            "status": "drawn",
            "commitment": commitment(SEED).hex(),
            "public_round": self.public_round,
            "opens_at": BEFORE_THE_ROUND,
            "entrants": len(self.leaves),
            "frozen_at": BEFORE_THE_ROUND,
            "root": root.hex(),
            "randomness": value.hex() if self.public_round else None,
            "signature": SIGNATURE if self.public_round else None,
            "seed": SEED.hex(),
            "key": draw_key(SEED, root, value).hex(),
            "drawn_at": AFTER_THE_ROUND,
            "algorithm": ALGORITHM,
            "proves": "",
        }

    def place_of(self, number: int) -> int:
        key = bytes.fromhex(self.published()["key"])
        return Permutation(key, len(self.leaves)).place_of(number)

    def proof(self, number: int) -> dict[str, Any]:
        first = (number - 1) // 1024 * 1024
        path = proof_of(self.leaves[first : first + 1024], chunk_roots(self.leaves), number - 1)
        return {
            "event_id": str(EVENT),
            "number": number,
            "leaf": self.leaves[number - 1].hex(),
            "path": [step.hex() for step in path],
            "entrants": len(self.leaves),
            "root": root_of(chunk_roots(self.leaves)).hex(),
            "place": self.place_of(number),
        }

    def noted(self) -> list[str]:
        """What somebody wrote down in time."""
        draw = self.published()
        named = self.public_round or "none"
        return ["--commitment", draw["commitment"], "--root", draw["root"], "--round", named]

    def verify(self, *arguments: str, lines: list[str] | None = None, **changes: Any) -> int:
        draw, entrants = self.folder / "lottery.json", self.folder / "entrants.txt"
        draw.write_text(json.dumps({"success": True, "data": self.published() | changes}))
        if lines is None:
            lines = [leaf.hex() for leaf in self.leaves]
        entrants.write_text("".join(f"{line}\n" for line in lines))
        return main(["verify-lottery", str(draw), str(entrants), *arguments])


@pytest.fixture
def case(tmp_path: Path) -> Case:
    leaves = [pseudonym(EVENT, user(number)) for number in range(1, ENTRANTS + 1)]
    leaves[6] = WITHDRAWN
    return Case(tmp_path, leaves)


@pytest.fixture
def with_round(case: Case) -> Case:
    return dataclasses.replace(case, public_round=QUICKNET)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_an_honest_draw_is_proved_and_what_is_not_is_said(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    assert case.verify(*case.noted()) == 0
    text = said(capsys)
    assert "2,500 numbers, 2,499 people, 1 nobody's at the freeze" in text
    assert "all 2,500 computed, each is one number's" in text
    assert "\nproved      nobody's place was chosen or changed after" in text
    assert "not proved  No public round was named" in text
    assert "FALSE" not in text


def test_with_a_signed_round_after_the_freeze_nobody_could_foresee_it(
    with_round: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    assert with_round.verify(*with_round.noted()) == 0
    text = said(capsys)
    assert "is the SHA-256 of the signature" in text
    assert "is that of the chain, for this round" in text
    assert "\nproved      nobody's place was chosen or changed after" in text
    assert "\nproved      nobody, the house included, could know or choose a place before the round" in text


@pytest.mark.parametrize("given", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_what_nobody_noted_in_time_proves_nothing_by_itself(
    with_round: Case, given: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    noted = with_round.noted()
    pairs = list(zip(noted[::2], noted[1::2], strict=True))
    assert with_round.verify(*(text for index in given for text in pairs[index])) == 0
    text = said(capsys)
    for index, (option, value) in enumerate(pairs):
        name = option.removeprefix("--")
        assert f"{name:<11} {value}" in text
        assert (f"{name:<11} {value}, as you noted" in text) == (index in given)
    assert "\nproved " not in text
    missing = [option.removeprefix("--") for index, (option, _) in enumerate(pairs) if index not in given]
    when = "2023-09-15T11:00:03.000Z, when the round came out"
    # In the order in which they are shown.
    these = ", ".join(name for name in ("commitment", "round", "root") if name in missing)
    assert text.count(f"\nonly if     public before {when} ({these}): nobody") == 2


@pytest.mark.parametrize(
    ("option", "other"), [("--commitment", "1" * 64), ("--root", "1" * 64), ("--round", QUICKNET[:-1] + "2")]
)
def test_what_somebody_noted_is_held_against_it(
    with_round: Case, option: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert with_round.verify(*with_round.noted(), option, other) == 1
    assert f"is not what you noted: {other}" in said(capsys)


def test_a_draw_made_anew_afterwards_is_one_only_to_who_noted_nothing(
    with_round: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    """The house takes other entrants once it knows the round: in itself that is as good as any draw."""
    noted = with_round.noted()
    with_round.leaves[0], with_round.leaves[1] = with_round.leaves[1], with_round.leaves[0]
    assert with_round.verify() == 0
    assert "\nproved " not in said(capsys)
    assert with_round.verify(*noted) == 1
    assert "FALSE    root" in said(capsys)


def test_a_round_named_afterwards_or_dropped_is_found_out_by_who_noted_it(case: Case) -> None:
    assert case.verify("--round", "none") == 0
    assert case.verify("--round", QUICKNET) == 1
    named = dataclasses.replace(case, public_round=QUICKNET)
    assert named.verify("--round", QUICKNET) == 0
    assert named.verify("--round", "none") == 1


def test_a_round_that_cannot_be_checked_proves_less(
    with_round: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "is_signed", lambda *_: None)
    monkeypatch.setattr(rounds, "can_check_signatures", lambda: False)
    assert with_round.verify() == 0
    text = said(capsys)
    assert "unknown  signature   needs py_ecc" in text
    assert "not proved  that nobody knew the randomness before the freeze" in text
    assert "the house included" not in text


def test_of_a_round_of_any_other_kind_a_person_is_told_to_compare(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    root = bytes.fromhex(case.published()["root"])
    changes = {
        "public_round": "lotto of 1 May",
        "randomness": b"7 11".hex(),
        "key": draw_key(SEED, root, b"7 11").hex(),
    }
    assert case.verify(**changes) == 0
    assert f"compare it with what 'lotto of 1 May' said: {b'7 11'.hex()}" in said(capsys)


OTHER = hashlib.sha256(b"other").hexdigest()
LIES: dict[str, tuple[dict[str, Any], str]] = {
    "commitment": ({"commitment": OTHER}, "seed        is not the one that was committed to"),
    "seed": ({"seed": OTHER}, "seed        is not the one that was committed to"),
    "seed and commitment": (
        {"seed": OTHER, "commitment": commitment(bytes.fromhex(OTHER)).hex()},
        "key         is not made of seed",
    ),
    "no seed": ({"seed": None}, "the draw is void"),
    "root": ({"root": OTHER}, "root        is not the Merkle root"),
    "no root": ({"root": None}, "are not frozen yet"),
    "entrants": ({"entrants": ENTRANTS - 1}, "the list has 2,500 numbers, the draw 2,499"),
    "key": ({"key": OTHER}, "key         is not made of seed"),
    "no key": ({"key": None}, "key         is not made of seed"),
    "randomness": ({"randomness": OTHER}, "randomness  is not the SHA-256"),
    "no randomness": ({"randomness": None}, "is not there"),
    "no signature": ({"signature": None}, "signature   was not given"),
    "signature": ({"signature": "00" + SIGNATURE[2:]}, "randomness  is not the SHA-256"),
    "another round": ({"public_round": QUICKNET[:-1] + "4"}, "signature   is not that of the chain"),
    "no round": ({"public_round": None}, "no round was named beforehand"),
    "no such round": ({"public_round": "drand:1"}, "is not drand:<chain hash"),
    "a freeze before its time": ({"opens_at": "2023-09-15T00:00:00.001Z"}, "Z, before opens_at, 2023"),
    "a round of before": ({"frozen_at": AFTER_THE_ROUND}, "s before the freeze"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_changed_field_is_found_out(with_round: Case, lie: str, capsys: pytest.CaptureFixture[str]) -> None:
    changes, text = LIES[lie]
    # What somebody noted is as it was, so that nothing but the lie is false.
    noted = [] if changes.keys() & {"commitment", "root", "public_round"} else with_round.noted()
    assert with_round.verify(*noted, **changes) == 1
    out = said(capsys)
    assert text in out
    assert "NOT PROVED" in out


def test_every_field_that_the_draw_rests_on_is_among_the_lies() -> None:
    told = {name for changes, _ in LIES.values() for name in changes}
    rests_on = {
        "commitment", "seed", "root", "entrants", "key", "randomness", "signature", "public_round",
        "frozen_at", "opens_at",
    }  # fmt: skip
    assert told == rests_on


def test_a_changed_list_of_entrants_is_found_out(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [leaf.hex() for leaf in case.leaves]
    for changed in (
        [OTHER, *lines[1:]],
        [lines[1], lines[0], *lines[2:]],
        lines[:-1],
        [*lines, OTHER],
        [*lines[:9], WITHDRAWN.hex(), *lines[10:]],
    ):
        assert case.verify(lines=changed) == 1
        assert "root        is not the Merkle root" in said(capsys)


def test_who_is_in_the_list_twice_is_found_out(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.leaves[11] = case.leaves[10]
    assert case.verify() == 1
    assert "1 numbers are somebody's second one" in said(capsys)


def test_the_draw_of_another_event_is_not_the_answer(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert case.verify("--event", str(EVENT)) == 0
    assert "ok       event       is the one that was asked for" in said(capsys)
    assert case.verify("--event", str(user(1))) == 1
    assert f"FALSE    event       is not the one that was asked for: {user(1)}" in said(capsys)


def test_a_person_is_told_their_number_and_place(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert case.verify("--user", str(user(40))) == 0
    text = said(capsys)
    assert "have the number 40" in text
    assert f"the number 40 drew the place {case.place_of(40):,}" in text
    assert case.verify("--user", str(user(40)), "--place", str(case.place_of(40))) == 0
    assert case.verify("--user", str(user(40)), "--place", str(case.place_of(41))) == 1
    assert case.verify("--user", str(user(7))) == 1
    assert case.verify("--user", str(user(40)), "--number", "41") == 1
    assert case.verify("--number", "41", "--place", str(case.place_of(41))) == 0
    ticket = QueueSigner("any secret").ticket(EVENT, user(40), 40)
    assert case.verify("--ticket", ticket) == 0
    assert case.verify("--ticket", QueueSigner("any secret").ticket(EVENT, user(40), 39)) == 1


def test_a_proof_is_checked_and_a_changed_one_found_out(case: Case) -> None:
    path = case.folder / "proof.json"
    honest = case.proof(2049)
    lies: list[dict[str, Any]] = [
        {"number": 2050},
        {"leaf": OTHER},
        {"path": honest["path"][:-1]},
        {"path": [OTHER, *honest["path"][1:]]},
        {"place": honest["place"] % ENTRANTS + 1},
        {"event_id": str(user(1))},
    ]
    path.write_text(json.dumps({"data": honest}))
    assert case.verify("--proof", str(path)) == 0
    for lie in lies:
        path.write_text(json.dumps({"data": honest | lie}))
        assert case.verify("--proof", str(path)) == 1, lie


def test_all_places_can_be_written(case: Case) -> None:
    path = case.folder / "places.csv"
    assert case.verify("--places", str(path)) == 0
    head, *rows = path.read_text().splitlines()
    assert (head, len(rows)) == ("place,number,pseudonym", ENTRANTS)
    place, number, name = rows[16].split(",")
    assert int(place) == 17 == case.place_of(int(number))
    assert name == (case.leaves[int(number) - 1].hex() if int(number) != 7 else "")


def test_what_cannot_be_read_is_one_line_and_says_where(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [leaf.hex() for leaf in case.leaves]
    assert case.verify(lines=[*lines[:3], "nonsense"]) == 1
    assert "the entrants' line 4 is not 64 hex digits: b'nonsense" in capsys.readouterr().err
    bad = tmp_path / "bad.json"
    for text, complaint in (
        ("", "is not JSON"),
        ("{}", "missing required field"),
        ('{"data": 1}', "Expected"),
    ):
        bad.write_text(text)
        assert main(["verify-lottery", str(bad), str(bad)]) == 1
        error = capsys.readouterr().err
        assert complaint in error
        assert len(error.splitlines()) == 1
    assert main(["verify-lottery", str(tmp_path / "none"), str(bad)]) == 1
    assert main(["verify-lottery", "http://127.0.0.1:1", str(EVENT)]) == 1
    assert "Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["x"], ["x", "y", "--user", "me"], ["x", "y", "--ticket", "t"]])
def test_a_wrong_command_line_is_said_to_be_one(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["verify-lottery", *arguments])
    assert caught.value.code == 2


def test_it_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["verify-lottery", "--help"])
    assert caught.value.code == 0
    assert "usage: rush verify-lottery" in said(capsys)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_million_entrants_are_checked_in_less_than_a_minute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case(tmp_path, [hashlib.sha256(b"%d" % number).digest() for number in range(1_000_000)])
    lines = [leaf.hex() for leaf in case.leaves]
    began_s = time.perf_counter()
    assert case.verify("--number", "1", lines=lines) == 0
    took_s = time.perf_counter() - began_s
    with capsys.disabled():
        print(f"\n1,000,000 entrants verified in {took_s:.1f} s, with writing the files")
    assert took_s < 60
