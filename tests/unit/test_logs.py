"""What a log line shows, and what it never shows."""

import json
import logging
from typing import Any

from observability.logs import JsonFormatter, ReadableFormatter, mask


def _record(message: str, *args: object, **extras: Any) -> logging.LogRecord:
    record = logging.LogRecord("workers.relay", logging.WARNING, "f.py", 1, message, args, None)
    vars(record).update(extras)
    return record


def test_a_line_holds_the_time_the_level_the_name_and_the_extras() -> None:
    line = ReadableFormatter("relay").format(_record("behind by %d", 7, cell="a.0", why="too slow"))
    clock, rest = line.split(" ", 1)
    assert len(clock) == len("12:00:01.250")
    assert rest == 'warning relay workers.relay: behind by 7 cell=a.0 why="too slow"'


def test_json_lines_hold_the_same() -> None:
    entry = json.loads(JsonFormatter("relay").format(_record("behind by %d", 7, cell="a.0")))
    assert entry.pop("at").endswith("Z")
    assert entry == {
        "level": "warning",
        "process": "relay",
        "logger": "workers.relay",
        "message": "behind by 7",
        "cell": "a.0",
    }


def test_a_password_in_a_url_is_never_shown() -> None:
    for url in ("redis://:hunter2@127.0.0.1:6379/0", "postgresql://rush:hunter2@db/rush?sslmode=require"):
        record = _record("cannot reach %s", url, url=url)
        record.exc_info = (OSError, OSError(url), None)
        for formatter in (ReadableFormatter(), JsonFormatter()):
            assert "hunter2" not in formatter.format(record)
    assert mask("redis://:hunter2@h:1/0 and http://h/a@b") == "redis://:***@h:1/0 and http://h/a@b"
