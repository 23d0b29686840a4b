"""The ledger of a cell, put together from everybody who saw some of it."""

import contextlib
from typing import Any

import msgspec

from tests.drills.checker_evidence import SEQ_BITS, SEQ_MASK, Evidence, position_of, position_text
from tests.drills.checker_report import Report

Item = tuple[str, int, int, str]
"""Zone, quantity, price, show."""


UNSEEN = "?"
"""The fingerprint of a keyed booking whose entry was lost before anybody read it."""


class Step(msgspec.Struct, array_like=True, gc=False):
    """An entry: a change of the cell."""

    at_ms: int


class Open(Step, tag="open", gc=False):
    """A new epoch began."""


class Reserve(Step, tag="reserve", gc=False):
    """A hold came to be."""

    booking: str
    user: str
    fingerprint: str
    expires_at_ms: int
    currency: str
    items: tuple[Item, ...]


class Confirm(Step, tag="confirm", gc=False):
    """It was sold."""

    booking: str
    version: int
    user: str
    code: str
    items: tuple[Item, ...]


class Ended(Step, gc=False):
    """Its seats came back."""

    booking: str
    version: int
    user: str
    was: str
    items: tuple[Item, ...]


class Cancel(Ended, tag="cancel", gc=False):
    """By the buyer."""


class Expire(Ended, tag="expire", gc=False):
    """By the deadline."""


class Reject(Ended, tag="reject", gc=False):
    """By Postgres."""


class Edit(Step, tag="edit", gc=False):
    """The organizer changed something."""

    version: int
    outcome: str
    changes: tuple[tuple[str, int, int, int], ...]
    """Zone, and by how much capacity, available, blocked move."""


AnyStep = Open | Reserve | Confirm | Cancel | Expire | Reject | Edit
_decode = msgspec.json.Decoder(AnyStep).decode
_decode_many = msgspec.json.Decoder(list[AnyStep]).decode


class Ledger(msgspec.Struct):
    """What is known of a cell's ledger."""

    tag: str
    steps: dict[int, AnyStep]
    texts: dict[int, str]
    seen_ns: dict[int, int]
    """When the watcher saw it; only what it saw."""
    last_of: dict[int, int]
    """Epoch to the position up to which it was kept: what is behind it was lost. Not for the last epoch, of
    which everything is kept."""
    end: int
    """Where Postgres is."""

    def is_kept(self, position: int) -> bool:
        """Whether what was given at this place outlived its epoch."""
        last = self.last_of.get(position >> SEQ_BITS)
        return last is None or position <= last

    def evidence(self, position: int) -> str:
        """An entry as evidence."""
        return f"{position_text(position)} {self.texts.get(position, 'was seen by nobody')}"


def read_ledgers(evidence: Evidence, report: Report) -> dict[str, Ledger]:
    """The ledger of each cell of the run. Two texts of one id, and gaps, are reported."""
    ledgers = {}
    for tag in evidence.cells:
        ledgers[tag] = Ledger(tag, {}, {}, {}, {}, evidence.postgres.offsets.get(tag, 0))
        for step in evidence.postgres.steps.get(tag, ()):
            if step.before >> SEQ_BITS != step.after >> SEQ_BITS:
                ledgers[tag].last_of[step.before >> SEQ_BITS] = step.before
    for entry in evidence.entries:
        ledger = ledgers.get(entry.tag)
        if ledger is None:
            continue
        position = position_of(entry.id)
        if ledger.texts.setdefault(position, entry.text) == entry.text:
            ledger.seen_ns.setdefault(position, entry.seen_ns)
        else:
            _add_other(ledger, position, entry.text, f"seen on {entry.node or 'Redis'}", report)
    for tag, cell in evidence.cells.items():
        ledger = ledgers[tag]
        for id_, text in cell.ledger:
            position = position_of(id_)
            if ledger.texts.setdefault(position, text) != text:
                _add_other(ledger, position, text, "still in Redis", report)
        _decode_all(ledger, report)
        _find_gaps(ledger, "was seen", sorted(ledger.seen_ns), report)
        _find_gaps(ledger, "is in Redis", [position_of(id_) for id_, _ in cell.ledger], report)
    report.counts["entries"] = sum(len(ledger.steps) for ledger in ledgers.values())
    return ledgers


def _add_other(ledger: Ledger, position: int, text: str, where: str, report: Report) -> None:
    what = f"the id {position_text(position)} of {ledger.tag} was given twice"
    report.add("two texts", what, ledger.texts[position], f"{text} ({where})")


def _decode_all(ledger: Ledger, report: Report) -> None:
    with contextlib.suppress(msgspec.MsgspecError):
        steps = _decode_many("[" + ",".join(ledger.texts.values()) + "]")
        if len(steps) == len(ledger.texts):
            ledger.steps = dict(zip(ledger.texts, steps, strict=True))
            return
    for position, text in ledger.texts.items():
        try:
            ledger.steps[position] = _decode(text)
        except msgspec.MsgspecError as error:
            report.add("unreadable", f"{ledger.tag} {position_text(position)}: {error}", text)


def _find_gaps(ledger: Ledger, how: str, positions: list[int], report: Report) -> None:
    """A watcher reads each ledger from its beginning and goes on, so a gap was a gap when it was read."""
    if not positions or positions[-1] - positions[0] == len(positions) - 1:
        return
    before = None
    for position in positions:
        if position - 1 != before and before is not None and position & SEQ_MASK != 0:
            report.add(
                "gap",
                f"{ledger.tag}: {position_text(position)} {how} behind {position_text(before)}",
                ledger.evidence(before),
                ledger.evidence(position),
            )
        before = position


def items_of(step: Any) -> tuple[tuple[str, int], ...]:
    """Zone and quantity of each item, sorted by zone."""
    if len(step.items) == 1:
        return ((step.items[0][0], step.items[0][1]),)
    return tuple(sorted((item[0], item[1]) for item in step.items))
