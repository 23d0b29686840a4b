"""The Lua scripts as data: bundled, hashed, with what their headers say.

A script is a file of `lua/`, its shared parts are modules of `lua/lib/`, named by
`local name = require('name')` at the beginning of a line. Redis has no `require`, so the loader puts
every module that is needed, once and in the order of need, in front of the script:

    #!lua flags=...                              (real servers only, from FLAGS)
    local status = (function() ... end)()
    local cell = (function() ... end)()
    <the script without its require lines>

Recovery alone loads scripts into Redis: that is the fence (see engine.lift).
"""

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from engine.settings import project_root

_REQUIRE = re.compile(r"^local (\w+) = require\('(\w+)'\)$")
_HEADER = re.compile(r"^-- (KEYS|ARGV|RETURNS|FLAGS|GROUP)\b ?(.*)$")
_STATUS = re.compile(r"^    ([A-Z_]+) = (\d+),\s*-- (.+)$")
_ERROR_LINE = re.compile(r"user_script:(\d+)")


class ScriptError(Exception):
    """A script is not of the form that the loader reads; the message names file and line."""


class ScriptFailed(Exception):
    """A script raised an error; the message names the file and the line in `lua/`."""


class Script(msgspec.Struct, frozen=True):
    """One bundled script."""

    name: str
    keys: tuple[str, ...]
    """Names of its KEYS in order; the last may end in `*` or `+`: any number, or at least one."""
    argv: str
    returns: str
    flags: str
    group: str
    """`verb`: its absence is the fence. `recovery`: what recovery itself calls."""
    source: str
    """As a real server gets it."""
    source_plain: str
    """Without the `#!lua` line, for servers that do not know it."""
    sha: str
    """What EVALSHA names: SHA-1 of `source`."""
    origins: tuple[tuple[str, int], ...]
    """For each line of `source` the file and the line that it came from."""

    @property
    def keys_min(self) -> int:
        """The fewest KEYS that a call may name."""
        return len(self.keys) - (1 if self.keys and self.keys[-1].endswith("*") else 0)

    @property
    def takes_more_keys(self) -> bool:
        """Whether the number of KEYS is open."""
        return bool(self.keys) and self.keys[-1][-1] in "*+"

    def check_keys(self, keys: Sequence[object]) -> None:
        """Raise ScriptError unless the script may be called with so many KEYS."""
        if len(keys) < self.keys_min or (len(keys) > self.keys_min and not self.takes_more_keys):
            raise ScriptError(f"{self.name} takes the keys {' '.join(self.keys)}, it was given {len(keys)}")

    def locate(self, message: str) -> str:
        """An error message of Redis with bundle lines replaced by file and line."""

        def replace(match: re.Match[str]) -> str:
            line = int(match[1])
            if not 1 <= line <= len(self.origins):
                return match[0]
            file, number = self.origins[line - 1]
            return f"{file}:{number}"

        return _ERROR_LINE.sub(replace, message)


class Scripts(Mapping[str, Script]):
    """All scripts by name: `scripts["reserve"].sha`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or project_root() / "lua"
        self._by_name = {path.stem: self._bundle(path) for path in sorted(self._folder.glob("*.lua"))}

    def __getitem__(self, name: str) -> Script:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def group(self, name: str) -> list[Script]:
        """The scripts of one group, `verb` or `recovery`."""
        return [script for script in self._by_name.values() if script.group == name]

    def _bundle(self, path: Path) -> Script:
        header = _read_header(path)
        lines: list[str] = []
        origins: list[tuple[str, int]] = []
        bundled: set[str] = set()

        def add(text: str, file: Path, number: int) -> None:
            lines.append(text)
            origins.append((str(file.relative_to(self._folder.parent)), number))

        def include(file: Path, module: str | None) -> None:
            """Append one file after all that it needs, each at most once."""
            body = []
            for number, line in enumerate(file.read_text().splitlines(), 1):
                if match := _REQUIRE.match(line):
                    if match[1] != match[2]:
                        raise ScriptError(f"{file}:{number}: a module keeps its name: local {match[2]} = …")
                    needed = self._folder / "lib" / f"{match[2]}.lua"
                    if not needed.exists():
                        raise ScriptError(f"{file}:{number}: there is no {needed}")
                    if match[2] not in bundled:
                        bundled.add(match[2])
                        include(needed, match[2])
                else:
                    body.append((line, number))
            if module:
                add(f"local {module} = (function()", file, 1)
            for line, number in body:
                add(line, file, number)
            if module:
                add("end)()", file, len(body))

        include(path, None)
        plain = "\n".join(lines) + "\n"
        shebang = "#!lua" + (f" flags={header['FLAGS']}" if header.get("FLAGS") else "")
        source = f"{shebang}\n{plain}"
        return Script(
            name=path.stem,
            keys=tuple(header["KEYS"].split()),
            argv=header.get("ARGV", ""),
            returns=header["RETURNS"],
            flags=header.get("FLAGS", ""),
            group=header["GROUP"],
            source=source,
            source_plain=plain,
            sha=hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(),
            origins=((str(path.relative_to(self._folder.parent)), 1), *origins),
        )


def _read_header(path: Path) -> dict[str, str]:
    """KEYS, ARGV, RETURNS, FLAGS and GROUP from the comment that a script begins with."""
    header: dict[str, str] = {}
    current = None
    for line in path.read_text().splitlines():
        if match := _HEADER.match(line):
            current = match[1]
            header[current] = match[2]
        elif line.startswith("--     ") and current:
            header[current] += " " + line[2:].strip()
        elif not line.startswith("--"):
            break
        else:
            current = None
    for required in ("KEYS", "RETURNS", "GROUP"):
        if required not in header:
            raise ScriptError(f"{path}: the header has no {required} line")
    if header["GROUP"] not in ("verb", "recovery"):
        raise ScriptError(f"{path}: GROUP is {header['GROUP']!r}, it may be verb or recovery")
    return header


def generate_status(folder: Path | None = None) -> str:
    """The text of engine/status.py, made from lua/lib/status.lua."""
    source = (folder or project_root() / "lua") / "lib" / "status.lua"
    rows = [match.groups() for line in source.read_text().splitlines() if (match := _STATUS.match(line))]
    if [int(number) for _, number, _ in rows] != list(range(len(rows))):
        raise ScriptError(f"{source}: the numbers must run from 0 without a gap")
    head = "What a script can answer. Generated from lua/lib/status.lua by `make statuses`: do not edit."
    members = "\n".join(f'    {name} = {number}\n    """{text}"""' for name, number, text in rows)
    return (
        f'"""{head}"""\n\n'
        "from enum import IntEnum\n\n\n"
        "class Status(IntEnum):\n"
        '    """In order of precedence: of two that apply, the first is answered."""\n\n'
        f"{members}\n"
    )


if __name__ == "__main__":
    (project_root() / "engine" / "status.py").write_text(generate_status())
    sys.stdout.write("engine/status.py is written\n")
