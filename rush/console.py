"""What a person sees while it runs: everybody's lines, each behind the name of who said it."""

import contextlib
import io
import itertools
import os
import re
import sys
from typing import TextIO

_COLOURS = (36, 32, 35, 34, 33, 96, 92, 95)
_NAME_WIDTH = 10
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class Console:
    """Writes lines to one stream; colours only where that is a terminal. A reader who left is no error."""

    def __init__(self, stream: TextIO | None = None, *, is_plain: bool = False) -> None:
        self._stream = stream or sys.stdout
        self._is_plain = is_plain
        """Pass lines on as they are: they are JSON and say themselves whose they are."""
        self._is_terminal = self._stream.isatty()
        self._colours = itertools.cycle(_COLOURS)
        self._colour_of: dict[str, int] = {}

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            # `make up | head`: go on in silence, also when Python flushes the stream at its end.
            self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            with contextlib.suppress(OSError):
                os.dup2(self._stream.fileno(), sys.stdout.fileno())

    def say(self, text: str = "") -> None:
        """A line of our own."""
        self._write(text)

    def line(self, name: str, text: str) -> None:
        """A line that the process `name` printed."""
        text = _CONTROL.sub("", text)
        if self._is_plain and text.startswith("{"):
            self._write(text)
            return
        if not self._is_terminal:
            self._write(f"{name:<{_NAME_WIDTH}} | {text}")
            return
        colour = self._colour_of.setdefault(name, next(self._colours))
        if " warning " in text[:40]:
            text = f"\x1b[33m{text}\x1b[0m"
        elif " error " in text[:40] or " critical " in text[:40]:
            text = f"\x1b[31m{text}\x1b[0m"
        self._write(f"\x1b[{colour}m{name:<{_NAME_WIDTH}} |\x1b[0m {text}")

    def as_stream(self, name: str) -> TextIO:
        """A stream whose lines appear as those of `name`: where our own log goes."""
        return _LineStream(self, name)


class _LineStream(io.StringIO):
    def __init__(self, console: Console, name: str) -> None:
        super().__init__()
        self._console = console
        self._name = name

    def write(self, text: str, /) -> int:
        for line in text.splitlines():
            self._console.line(self._name, line)
        return len(text)
