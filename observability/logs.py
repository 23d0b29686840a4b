"""Logs: one readable line an event, or one JSON object; never a password."""

import json
import logging
import re
import sys
import time
from typing import Any, TextIO

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_PLAIN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_URL_PASSWORD = re.compile(r"(?<=://)([^\s:/@]*):[^\s@/]+@")
_TALKATIVE = ("asyncio", "uvicorn.error", "httpx")


def mask(text: str) -> str:
    """The text with the password of every URL in it replaced by ***."""
    return _URL_PASSWORD.sub(r"\1:***@", text)


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN_FIELDS}


def _shown(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or re.search(r'[\s"=]', text) else text


class ReadableFormatter(logging.Formatter):
    """`12:00:01.250 info    workers.relay  message key=value`; a traceback follows on lines of its own."""

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        extras = "".join(f" {name}={_shown(value)}" for name, value in _extras(record).items())
        process = f"{self._process} " if self._process else ""
        line = (
            f"{clock}.{int(record.msecs):03d} {record.levelname.lower():<7} {process}"
            f"{record.name}: {record.getMessage()}{extras}"
        )
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return mask(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `at` (RFC 3339, UTC), level, process, logger, message and the extras."""

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "at": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": mask(record.getMessage()),
        }
        entry |= {name: mask(str(value)) for name, value in _extras(record).items()}
        if record.exc_info:
            entry["exception"] = mask(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


def set_up_logs(
    level: str, *, process: str = "", as_json: bool = False, stream: TextIO | None = None
) -> None:
    """Send every log line of this process to `stream`, or to stderr.

    `process` names this process in each line; leave it out where somebody else puts the name in front.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process) if as_json else ReadableFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(LEVELS[level], logging.WARNING))
