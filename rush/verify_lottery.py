"""`rush verify-lottery`: computes a draw again from public data alone, and says what that proves."""

import argparse
import contextlib
import http.client
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from engine.times import rfc3339
from engine.waiting.checking import (
    NO_ROUND,
    Checked,
    Noted,
    Outcome,
    Unreadable,
    check_draw,
    check_person,
    check_place,
    check_proof,
)
from engine.waiting.lottery import WITHDRAWN
from engine.waiting.published import FORESEEN, PublishedDraw, PublishedProof
from engine.waiting.randomness import drand_round
from engine.waiting.tickets import Ticket, claims_of
from rush.operate import Progress

TIMEOUT_S = 60
ANSWER_BYTES_MAX = 1 << 20
API = "/api/v1"

DESCRIPTION = """\
Compute the draw of a lottery again, from public data alone, and compare it with what was published.

  rush verify-lottery http://127.0.0.1:8000 EVENT     from a gateway; EVENT is an id or a slug
  rush verify-lottery lottery.json entrants.txt       from what was saved of
                                                      /queue/EVENT/lottery and /queue/EVENT/lottery/entrants

The exit status is 0 where nothing is false, 1 where something is, 2 for a wrong command line."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="rush verify-lottery",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("source", metavar="URL|FILE", help="a gateway, or the saved lottery")
    made.add_argument("second", metavar="EVENT|FILE", help="the event, or the saved entrants")
    made.add_argument(
        "--event",
        type=UUID,
        metavar="ID",
        help="whose draw the saved one has to be, or what a slug stands for",
    )
    made.add_argument("--commitment", type=_digest, help="what you noted of it before the sale")
    made.add_argument(
        "--round", metavar="NAME", help=f"the public round you noted then; {NO_ROUND} where none was named"
    )
    made.add_argument("--root", type=_digest, help="what you noted after the freeze, before the round")
    made.add_argument("--user", type=UUID, metavar="ID", help="your user id: do you take part?")
    made.add_argument("--number", type=int, metavar="N", help="your number")
    made.add_argument("--place", type=int, metavar="N", help="the place you were told: is it what you drew?")
    made.add_argument(
        "--ticket", type=_ticket, help="your queue ticket; from a gateway, its proof is checked too"
    )
    made.add_argument("--proof", type=Path, metavar="FILE", help="a saved /queue/EVENT/lottery/proof")
    made.add_argument(
        "--previous-signature",
        type=bytes.fromhex,
        metavar="HEX",
        help="of the drand round before: a chained one cannot be checked without",
    )
    made.add_argument(
        "--places", type=Path, metavar="FILE", help="write everybody's: place, number, pseudonym"
    )
    return made


def _digest(text: str) -> str:
    if len(bytes.fromhex(text)) != 32:
        raise ValueError(text)
    return text.lower()


def _ticket(text: str) -> tuple[str, Ticket]:
    found = claims_of(text)
    if found is None:
        raise ValueError(text)
    return text, found


_digest.__name__, _ticket.__name__ = "digest", "ticket"


class _Gateway:
    """Where to ask."""

    def __init__(self, url: str, event: str) -> None:
        self._base = url.rstrip("/").removesuffix(API) + API
        try:
            self.event_id = UUID(event)
        except ValueError:
            self.event_id = UUID(self._data(f"/events/{urllib.parse.quote(event, safe='')}")["id"])

    def draw(self) -> PublishedDraw:
        return msgspec.convert(self._data(f"/queue/{self.event_id}/lottery"), PublishedDraw)

    def proof(self, ticket: str) -> PublishedProof:
        data = self._data(f"/queue/{self.event_id}/lottery/proof", {"X-Queue-Ticket": ticket})
        return msgspec.convert(data, PublishedProof)

    def lines(self) -> Iterator[bytes]:
        with self._open(f"/queue/{self.event_id}/lottery/entrants", {}) as answer:
            yield from answer
            if answer.length:
                raise Unreadable("the list of entrants broke off: ask again")

    def _data(self, path: str, headers: dict[str, str] | None = None) -> Any:
        with self._open(path, headers or {}) as answer:
            return _data_of(answer.read(ANSWER_BYTES_MAX), self._base + path)

    @contextlib.contextmanager
    def _open(self, path: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        url = self._base + path
        try:
            with urllib.request.urlopen(  # noqa: S310 — the person names it, and it begins with http
                urllib.request.Request(url, headers=headers),  # noqa: S310
                timeout=TIMEOUT_S,
            ) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            said = error.read(ANSWER_BYTES_MAX).decode(errors="replace")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                said = json.loads(said)["error"]["message"]
            raise Unreadable(f"{url} answers {error.code}: {said[:200]}") from None
        except (OSError, http.client.HTTPException) as error:
            raise Unreadable(f"{url}: {getattr(error, 'reason', error)}") from None


def _data_of(text: bytes, where: str) -> Any:
    """What an answer carries, with or without its envelope."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise Unreadable(f"{where} is not JSON: {error}") from None
    return value["data"] if isinstance(value, dict) and "data" in value else value


def _saved(path: Path, kind: type[Any]) -> Any:
    return msgspec.convert(_data_of(path.read_bytes(), str(path)), kind)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _progress(shown: Progress) -> Any:
    def show(what: str, done: int, total: int) -> None:
        shown(f"{what}: {done:,} of {total:,}")

    return show


def _verify(arguments: argparse.Namespace, shown: Progress) -> Checked:
    proofs: list[PublishedProof] = []
    lines: Iterable[bytes]
    event_id = arguments.event
    if arguments.source.startswith(("http://", "https://")):
        gateway = _Gateway(arguments.source, arguments.second)
        event_id = event_id or gateway.event_id
        draw = gateway.draw()
        lines = [] if draw.root is None else gateway.lines()
        if arguments.ticket and draw.root is not None:
            proofs.append(gateway.proof(arguments.ticket[0]))
    else:
        draw = _saved(Path(arguments.source), PublishedDraw)
        lines = _lines(Path(arguments.second))
    if arguments.proof:
        proofs.append(_saved(arguments.proof, PublishedProof))
    checked = check_draw(
        draw,
        lines,
        _progress(shown),
        event_id=event_id,
        noted=_noted(arguments),
        previous_signature=arguments.previous_signature,
    )
    _check_person(checked, arguments, proofs)
    return checked


def _noted(arguments: argparse.Namespace) -> dict[Noted, str]:
    given: dict[Noted, str | None] = {
        "commitment": arguments.commitment,
        "round": arguments.round,
        "root": arguments.root,
    }
    return {name: value for name, value in given.items() if value is not None}


def _check_person(checked: Checked, arguments: argparse.Namespace, proofs: list[PublishedProof]) -> None:
    number = arguments.number
    if arguments.ticket:
        ticket: Ticket = arguments.ticket[1]
        number = check_person(checked, ticket.event_id, ticket.user_id, ticket.number)
    elif arguments.user:
        number = check_person(checked, checked.draw.event_id, arguments.user, number)
    for proof in proofs:
        check_proof(checked, proof)
    if number is None:
        return
    if arguments.place is not None:
        check_place(checked, number, arguments.place)
    elif checked.permutation is not None and 1 <= number <= checked.permutation.entrants:
        drew = checked.permutation.place_of(number)
        checked.say(True, "place", f"the number {number:,} drew the place {drew:,}", "")


def _report(checked: Checked) -> str:
    draw = checked.draw
    count = len(checked.leaves) // 32
    lines = [
        f"The draw of {draw.event_id}: {count:,} numbers, {count - checked.withdrawn:,} people, "
        f"{checked.withdrawn:,} nobody's at the freeze",
        *(f"  {finding.outcome:<8} {finding.subject:<11} {finding.text}" for finding in checked.findings),
    ]
    if not checked.is_good:
        false = sum(finding.outcome is Outcome.FALSE for finding in checked.findings)
        return "\n".join([*lines, f"NOT PROVED: {false} of these must not be false"])
    begin = "proved      "
    if checked.unnoted:
        begin = f"only if     public before {_deadline(draw)} ({', '.join(checked.unnoted)}): "
        options = ", ".join(f"--{name}" for name in checked.unnoted)
        lines.append(
            f"not proved  that you are shown what was public in time: give what you noted ({options})"
        )
    lines.append(f"{begin}nobody's place was chosen or changed after commitment and root were public")
    if draw.public_round is None:
        lines.append(f"not proved  {FORESEEN.strip()}")
    elif checked.is_unforeseen:
        lines.append(f"{begin}nobody, the house included, could know or choose a place before the round")
    else:
        lines.append(
            "not proved  that nobody knew the randomness before the freeze: see what is unknown above"
        )
    lines.append("not proved  that each entrant is somebody else: one person may have had many accounts")
    return "\n".join(lines)


def _deadline(draw: PublishedDraw) -> str:
    """By when all that the draw rests on has to be public."""
    if draw.public_round is None:
        return draw.drawn_at or "the draw"
    named = drand_round(draw.public_round)
    if named is None or named.at_s is None:
        return "the round came out"
    return f"{rfc3339(1000 * named.at_s)}, when the round came out"


def _write_places(path: Path, checked: Checked) -> None:
    drawn = checked.permutation
    if drawn is None:
        raise Unreadable("there are no places to write: the draw cannot be computed")
    with path.open("w", encoding="ascii") as file:
        file.write("place,number,pseudonym\n")
        for place in range(1, drawn.entrants + 1):
            number = drawn.number_of(place)
            leaf = checked.leaf(number)
            file.write(f"{place},{number},{'' if leaf == WITHDRAWN else leaf.hex()}\n")


def main(argv: Sequence[str]) -> int:
    """Run it; the exit status."""
    arguments = parser().parse_args(argv)
    shown = Progress()
    try:
        checked = _verify(arguments, shown)
        if arguments.places:
            _write_places(arguments.places, checked)
    except (Unreadable, OSError, msgspec.ValidationError) as error:
        shown.end()
        sys.stderr.write(f"rush verify-lottery: {error}\n")
        return 1
    shown.end()
    sys.stdout.write(_report(checked) + "\n")
    return 0 if checked.is_good else 1
