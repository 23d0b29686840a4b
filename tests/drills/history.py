"""What a drill writes down while it runs, and how it is read back.

    client-<name>.jsonl   each client's operations: a line when it asks, a line when it is answered
    ledger.jsonl          every ledger entry that a watcher saw, which reads the ledgers all the time
    run.json              the events, the faults, the seed

A client writes its question before it sends it, with one system call, so that a client that is killed leaves
a question without an answer: an unknown outcome, like the reply that never came.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

CLIENT_FILES = "client-*.jsonl"
LEDGER_FILE = "ledger.jsonl"
RUN_FILE = "run.json"

Items = tuple[tuple[str, int], ...]
"""Zone and quantity."""


class Details(msgspec.Struct, omit_defaults=True, gc=False):
    """What an error says beside its code."""

    zone_id: str = ""
    requested: int = 0
    available: int = -1
    held: int = -1
    limit: int = -1
    status: str = ""
    opens_at: str | None = None
    field: str = ""
    reason: str = ""


class Asked(msgspec.Struct, array_like=True, tag="asked", gc=False):
    """A client is about to send this. `asked_ns` is time.monotonic_ns, the same on the whole machine."""

    n: int
    """Counts the operations of one client."""
    verb: str
    """reserve, confirm, cancel, get."""
    asked_ns: int
    user: str
    event: str
    key: str | None = None
    booking: str | None = None
    items: Items = ()


class Answered(msgspec.Struct, array_like=True, tag="answered", gc=False):
    """What came back. A request that got no answer has none of this line, or one whose `http` is null."""

    n: int
    answered_ns: int
    http: int | None = None
    code: str | None = None
    """The error's code."""
    at: str | None = None
    """`x-ledger-seq`: where the cell's ledger stood when the answer was given."""
    booking: str | None = None
    durable: bool | None = None
    replayed: bool = False
    details: Details | None = None
    status: str | None = None
    """The booking's."""
    told: Items = ()
    """The booking's items, as the answer has them."""
    confirmation_code: str | None = None
    created_at_ms: int = 0
    expires_at_ms: int = 0
    digest: str | None = None
    """Of the answer's body: an answer that is given again is the same to the byte."""


class Operation(msgspec.Struct, gc=False):
    """A question and, where one came, its answer."""

    client: str
    asked: Asked
    answer: Answered | None = None

    def __str__(self) -> str:
        """One line of evidence."""
        asked, answer = self.asked, self.answer
        words = [f"{self.client}#{asked.n}", asked.verb, f"user={asked.user}"]
        if asked.key:
            words.append(f"key={asked.key}")
        if asked.booking:
            words.append(f"booking={asked.booking}")
        words += [f"{zone}x{quantity}" for zone, quantity in asked.items]
        words.append(f"asked_ns={asked.asked_ns}")
        if answer is None or answer.http is None:
            return " ".join([*words, "-> no answer"])
        words += ["->", str(answer.http), *([answer.code] if answer.code else []), f"at={answer.at}"]
        words += [
            f"{name}={value}"
            for name, value in (
                ("booking", answer.booking),
                ("status", answer.status),
                ("durable", answer.durable),
                ("details", answer.details),
            )
            if value is not None
        ]
        words += ["replayed"] if answer.replayed else []
        return " ".join([*words, f"answered_ns={answer.answered_ns}"])


class Entry(msgspec.Struct, array_like=True, gc=False):
    """A ledger entry as the watcher saw it."""

    tag: str
    """The cell's, as it stands in the braces of its keys."""
    id: str
    """`epoch-seq`."""
    text: str
    """JSON, as the script wrote it."""
    seen_ns: int
    node: str = ""
    """The address of the Redis it was seen on."""


class Zone(msgspec.Struct):
    """A zone as the organizer made it."""

    id: str
    capacity: int
    max_per_order: int = 10
    price_minor: int = 0
    blocked: int = 0


class Event(msgspec.Struct):
    """An event that the drill sells."""

    id: str
    zones: list[Zone]
    max_per_user: int
    hold_ttl_ms: int
    sale_start_at_ms: int = 0
    """0: it was open from the beginning."""


class Fault(msgspec.Struct):
    """Something that was done to the system on purpose."""

    kind: str
    begin_ns: int
    end_ns: int
    may_lose: bool = False
    """Whether what was not durable when it began, or became so meanwhile, may be lost by it."""
    what: str = ""
    """To whom, and how long: for the reader."""


class Run(msgspec.Struct):
    """What a drill was."""

    seed: int
    scenario: str
    events: list[Event]
    faults: list[Fault] = []
    commit: str = ""
    began_ns: int = 0
    quiet_ns: int = 0
    """When the last fault was over and everybody had stopped asking."""


class ClientWriter:
    """One client's file. A client that is started again takes another name."""

    def __init__(self, folder: Path, client: str) -> None:
        path = folder / f"client-{client}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._encode = msgspec.json.Encoder().encode

    def write(self, line: Asked | Answered) -> None:
        """The line is the kernel's when this returns, so it outlives this process."""
        os.write(self._file, self._encode(line) + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class EntryWriter:
    """The watcher's file. Whoever connects anew reads from the beginning again: what was here before is
    dropped, and an id that comes with another text is not."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / LEDGER_FILE).open("ab")
        self._encode = msgspec.json.Encoder().encode
        self._texts: dict[tuple[str, str], set[str]] = {}

    def write(self, entry: Entry) -> bool:
        """Write an entry down; False for one that stands there already."""
        texts = self._texts.setdefault((entry.tag, entry.id), set())
        if entry.text in texts:
            return False
        texts.add(entry.text)
        self._file.write(self._encode(entry) + b"\n")
        return True

    def flush(self) -> None:
        """Give what was written to the kernel."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()


def write_run(folder: Path, run: Run) -> None:
    """Write run.json."""
    (folder / RUN_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(run)))


def read_run(folder: Path) -> Run:
    """Read run.json."""
    return msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=Run)


def read_entries(folder: Path) -> list[Entry]:
    """Every entry that the watcher saw."""
    return msgspec.json.Decoder(Entry).decode_lines(_whole_lines(folder / LEDGER_FILE))


def read_operations(folder: Path) -> Iterator[Operation]:
    """Every operation of every client, questions and answers joined."""
    decoder = msgspec.json.Decoder(Asked | Answered)
    for path in sorted(folder.glob(CLIENT_FILES)):
        client = path.stem.removeprefix("client-")
        operations: dict[int, Operation] = {}
        for line in decoder.decode_lines(_whole_lines(path)):
            if type(line) is Asked:
                operations[line.n] = Operation(client, line)
            else:
                operations[line.n].answer = line
        yield from operations.values()


def _whole_lines(path: Path) -> bytes:
    """The file without a last line that was cut off when its writer was killed."""
    if not path.exists():
        return b""
    text = path.read_bytes()
    return text[: text.rfind(b"\n") + 1]


def answered(n: int, answered_ns: int, http: int, headers: Mapping[str, str], body: bytes) -> Answered:
    """An answer as it is written down, from what came over HTTP; the headers' names in lower case."""
    line = Answered(n, answered_ns, http, at=headers.get("x-ledger-seq"))
    line.replayed = headers.get("idempotent-replayed") == "true"
    line.digest = hashlib.blake2b(body, digest_size=8).hexdigest()
    told = _decoded(body)
    error, data = told.get("error"), told.get("data")
    if isinstance(error, dict):
        line.code = error.get("code")
        with contextlib.suppress(msgspec.ValidationError):
            line.details = msgspec.convert(error.get("details") or None, Details | None)
    elif isinstance(data, dict):
        line.booking, line.status, line.durable = data.get("id"), data.get("status"), data.get("durable")
        line.confirmation_code = data.get("confirmation_code")
        line.created_at_ms, line.expires_at_ms = _ms(data.get("created_at")), _ms(data.get("expires_at"))
        line.told = tuple((item["zone_id"], item["quantity"]) for item in data.get("items") or [])
    return line


def _ms(text: str | None) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000) if text else 0


def _decoded(body: bytes) -> dict[str, Any]:
    """The body, where it is a JSON object: what stands between client and gateway may answer otherwise."""
    try:
        told = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return told if isinstance(told, dict) else {}
