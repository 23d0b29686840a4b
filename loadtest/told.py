"""What clients were told, one JSON line for each answer, in an append-only file of each process.

Nothing of it is a summary: the verdict is reached from these lines, and anybody can check it again.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import IO
from uuid import UUID

import msgspec

from loadtest.plan import Kind

READ_BYTES = 1 << 20
NO_ANSWER = 0
"""The status of a request whose answer never came."""


class Answer(msgspec.Struct, array_like=True, tag="a", frozen=True):
    """One request and what came back. Times are seconds of the machine's monotonic clock."""

    kind: Kind
    person: int
    user_id: UUID
    attempt: int
    """Counts a person's wishes: requests of one attempt carry the same key and ask for the same."""
    due_s: float
    """When it was to be sent: for the first request, when the person arrived."""
    sent_s: float
    done_s: float
    status: int
    code: str = ""
    booking_id: UUID | None = None
    ledger_seq: str | None = None
    is_replayed: bool = False
    basket: int = 0
    """Which of the plan's baskets; -1 is a single ticket of its first zone."""
    is_keyed: bool = True
    is_first: bool = False
    """The person's first request: how late it was sent is how late the person started."""
    place: int = 0
    """In the queue, where the answer names one."""
    is_pushing: bool = False
    """Sent without the pass that it needs."""


class Beat(msgspec.Struct, array_like=True, tag="b", frozen=True):
    """Twice a second: how many people of a process have arrived, and how many are not done."""

    process: int
    at_s: float
    arrived: int
    in_flight: int


class End(msgspec.Struct, array_like=True, tag="e", frozen=True):
    """The last line of a process: everything that it was told stands above."""

    process: int
    arrived: int


Line = Answer | Beat | End

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def told_path(folder: Path, process: int) -> Path:
    """The file of one process."""
    return folder / f"told-{process}.ndjson"


class ToldWriter:
    """Appends lines, some at a time."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._lines: list[bytes] = []

    def write(self, line: Line) -> None:
        """Take a line; it is in the file after the next flush."""
        self._lines.append(_encoder.encode(line))

    def flush(self) -> None:
        """Write what was taken."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._file.write(b"\n".join(lines) + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        self._file.close()


class ToldReader:
    """Follows a growing file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._rest = b""

    def read(self) -> Iterator[Line]:
        """The lines that have come since."""
        if self._file is None:
            if not self._path.exists():
                return
            self._file = self._path.open("rb")
        while chunk := self._file.read(READ_BYTES):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                yield _decoder.decode(line)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
