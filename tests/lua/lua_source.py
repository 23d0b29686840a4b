"""A small reader of our Lua files: which functions write, where the line is, which names are global."""

import re
from pathlib import Path

import msgspec

LINE = "-- Nothing above this line writes; nothing below it can refuse."
READING_COMMANDS = frozenset(
    {"BITCOUNT", "BITPOS", "EXISTS", "GET", "GETBIT", "GETRANGE", "HGET", "HMGET", "MGET", "TIME", "XLEN"}
) | frozenset({"ZCOUNT", "ZMSCORE", "ZRANGE", "ZSCORE"})
WRITING_COMMANDS = frozenset(
    {"DEL", "HDEL", "HINCRBY", "HSET", "MSET", "SET", "SETBIT", "SETRANGE", "UNLINK", "XADD", "ZADD", "ZREM"}
)
"""Together all that the scripts use; a test asks a server whether each is in the right set."""

CHANGING_FUNCTIONS = frozenset(
    {
        ("booking", "put"),
        ("buyers", "hold"),
        ("buyers", "release"),
        ("deadlines", "add"),
        ("deadlines", "remove"),
        ("deadlines", "remove_member"),
        ("passes", "spend"),
        ("zone", "move"),
    }
)
"""What changes the cell in memory, to be written by its module's `save`: as good as written."""

_COMMAND = re.compile(r"redis\.p?call\('(\w+)'")
_FUNCTION = re.compile(r"^(?:local )?function (?:(\w+)\.)?(\w+)\((.*?)\)")
_CALL = re.compile(r"\b(\w+)\.(\w+)\(|\b(\w+)\(|\]\.(\w+)\(|\.(\w+)\(")
_LOCALS = re.compile(r"\blocal (?!function\b)([\w, ]+)|\bfor ([\w, ]+) (?:in|=)|\blocal function (\w+)")
_LOCAL_FUNCTION = re.compile(r"^local function .*?^end$", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"^\s*([A-Za-z_]\w*(?:\s*,\s*[A-Za-z_]\w*)*)\s*=(?!=)")


def without_comments(text: str) -> str:
    """The code, line for line."""
    return "\n".join(line.partition("--")[0].rstrip() for line in text.splitlines())


def commands(text: str) -> list[str]:
    """The Redis commands in a piece of code, in order."""
    return _COMMAND.findall(text)


class Function(msgspec.Struct):
    """One function at the left margin."""

    module: str
    name: str
    body: str


def functions(module: str, text: str) -> list[Function]:
    """The functions of a file that begin at the left margin."""
    found: list[Function] = []
    current: Function | None = None
    for line in without_comments(text).splitlines():
        if match := _FUNCTION.match(line):
            current = Function(match[1] or module, match[2], "")
            found.append(current)
        elif line == "end":
            current = None
        elif current is not None:
            current.body += line + "\n"
    return found


def calls_of(text: str, module: str) -> list[tuple[str, str]]:
    """(module, function) of each call in order; module is "" where it is chosen at run time."""
    found = []
    for owner, name, local, chosen, deeper in _CALL.findall(text):
        if owner:
            found.append((owner, name))
        elif local:
            found.append((module, local))
        else:
            found.append(("", chosen or deeper))
    return found


def writing_functions(folder: Path) -> set[tuple[str, str]]:
    """Every function of lua/lib that writes, itself or through another."""
    all_functions = [
        function
        for path in sorted((folder / "lib").glob("*.lua"))
        for function in functions(path.stem, path.read_text())
    ]
    writing = {
        (function.module, function.name)
        for function in all_functions
        if WRITING_COMMANDS & set(commands(function.body))
        or (function.module, function.name) in CHANGING_FUNCTIONS
    }
    while True:
        more = {
            (function.module, function.name)
            for function in all_functions
            if any(is_writing(call, writing) for call in calls_of(function.body, function.module))
        }
        if more <= writing:
            return writing
        writing |= more


def is_writing(call: tuple[str, str], writing: set[tuple[str, str]]) -> bool:
    """Whether this call may write. One whose module is chosen at run time is judged by its name."""
    module, name = call
    if module in {known for known, _ in writing}:
        return call in writing
    return name in {known for _, known in writing}


def writes_above_the_line(text: str, module: str, writing: set[tuple[str, str]]) -> list[str]:
    """What a script does above its line that it may not."""
    above = without_comments(text.partition(LINE)[0])
    found = [command for command in commands(above) if command in WRITING_COMMANDS]
    calls = [call for call in calls_of(above, module) if call[0] not in ("redis", "string", "table", "math")]
    return found + [f"{owner}.{name}" for owner, name in calls if is_writing((owner, name), writing)]


def first_write_below_the_line(text: str, module: str, writing: set[tuple[str, str]]) -> str:
    """The first thing below the line that writes: a command or `module.function`."""
    below = _LOCAL_FUNCTION.sub("", without_comments(text.partition(LINE)[2]))
    found: list[tuple[int, str]] = [
        (match.start(), match[1]) for match in _COMMAND.finditer(below) if match[1] in WRITING_COMMANDS
    ]
    for match in _CALL.finditer(below):
        owner, name = match[1] or "", match[2] or match[3] or match[4] or match[5]
        if (owner, name) in writing:
            found.append((match.start(), f"{owner}.{name}"))
    return min(found, default=(0, ""))[1]


def assigned_globals(text: str) -> set[str]:
    """Names that a file assigns without declaring them local anywhere in it."""
    code = without_comments(text)
    known: set[str] = set()
    for names, loop, function in _LOCALS.findall(code):
        known.update(re.findall(r"\w+", f"{names} {loop} {function}"))
    for parameters in re.findall(r"function[ \w.]*\(([\w, ]*)\)", code):
        known.update(re.findall(r"\w+", parameters))
    assigned: set[str] = set()
    depth = 0
    for line in code.splitlines():
        plain = re.sub(r"'[^']*'", "''", line)
        if depth == 0 and (match := _ASSIGNMENT.match(plain)):
            assigned.update(re.findall(r"\w+", match[1]))
        if depth == 0 and (match := re.match(r"\s*function (\w+)\(", plain)):
            assigned.add(match[1])
        depth += plain.count("{") - plain.count("}")
    return assigned - known
