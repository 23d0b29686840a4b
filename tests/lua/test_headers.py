"""What the files of lua/ say of themselves is true, and they keep the rules for scripts."""

import re
from pathlib import Path

import pytest

from engine.scripts import Scripts, generate_status
from engine.settings import project_root
from engine.status import Status
from tests.lua import lua_source
from tests.lua.cellkit import Backend, product_scripts
from tests.lua.lua_source import LINE, READING_COMMANDS, WRITING_COMMANDS

FOLDER = project_root() / "lua"
FILES = sorted(FOLDER.rglob("*.lua"))
NAMES = sorted(product_scripts())
WRITING = lua_source.writing_functions(FOLDER)
TAKES = {"reserve", "rate", "join", "claim", "admit", "draw"}
"""What takes something. All others give back, or do not touch seats, and run when memory is full."""
TAKES_FOR_A_BUYER = {"reserve", "rate"}
"""Of these, what takes seats and counts attempts. The others make the waiting room longer, or let in."""


def _code(path: Path) -> str:
    return lua_source.without_comments(path.read_text())


def _script(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text()


# --- check, then write


@pytest.mark.parametrize("name", NAMES)
def test_the_line_between_checking_and_writing_stands_once(name: str) -> None:
    assert [line.strip() for line in _script(name).splitlines()].count(LINE) == 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_above_the_line_writes(name: str) -> None:
    assert lua_source.writes_above_the_line(_script(name), name, WRITING) == []


@pytest.mark.parametrize("name", NAMES)
def test_nothing_below_the_line_refuses_by_an_error(name: str) -> None:
    below = lua_source.without_comments(_script(name).partition(LINE)[2])
    assert not re.search(r"\b(error|assert)\s*\(", below)


@pytest.mark.parametrize("name", [name for name in NAMES if "ledger" in product_scripts()[name].keys])
def test_the_first_write_is_the_one_that_can_still_fail(name: str) -> None:
    first = lua_source.first_write_below_the_line(_script(name), name, WRITING)
    assert first in ("XADD", "ledger.append", "hold.give_back", "take_back.carry_out", "queue.freeze_if_due")
    for module, function in (
        ("ledger", "append"),
        ("hold", "give_back"),
        ("take_back", "carry_out"),
        ("queue", "freeze_if_due"),
    ):
        [found] = [
            each
            for each in lua_source.functions(module, (FOLDER / "lib" / f"{module}.lua").read_text())
            if each.name == function
        ]
        body = f"{LINE}\n{found.body}"
        first = lua_source.first_write_below_the_line(body, module, WRITING)
        assert first in ("XADD", "ledger.append", "hold.give_back")


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("redis.call('HSET', KEYS[1], 'x', 1)", ["HSET"]),
        ("hold.give_back(keys, sale, id, record, 'cancel', 'cancelled')", ["hold.give_back"]),
        ("local f = kinds[fields[2]].take(key, 1)", [".take"]),
        ("item.zone.kind.give(key, 1, 'reserved')", ["kind.give"]),
        ("local function f()\n    deadlines.add(key)\nend\nf()", ["deadlines.add"]),
        ("redis.call('GET', KEYS[1])\nlocal record = booking.load(key)", []),
    ],
)
def test_the_check_for_writes_finds_what_is_planted(code: str, found: list[str]) -> None:
    text = f"{code}\n{LINE}\n"
    assert lua_source.writes_above_the_line(text, "planted", WRITING) == found


def test_functions_that_write_are_known_to_write() -> None:
    assert ("hold", "give_back") in WRITING, "through others"
    assert {("counted", "take"), ("counted", "give"), ("gcra", "charge"), ("ledger", "append")} <= WRITING
    assert {("booking", "load"), ("cell", "load"), ("gcra", "check"), ("counted", "find")}.isdisjoint(WRITING)


def test_the_server_agrees_on_which_commands_write(real_backend: Backend) -> None:
    used = {command for path in FILES for command in lua_source.commands(_code(path))}
    assert used == READING_COMMANDS | WRITING_COMMANDS
    assert not READING_COMMANDS & WRITING_COMMANDS
    known = real_backend.client.command()
    for command in used:
        assert ("write" in known[command.lower()]["flags"]) == (command in WRITING_COMMANDS), command


# --- headers


@pytest.mark.parametrize("name", NAMES)
def test_the_header_names_every_key_that_the_script_uses(name: str) -> None:
    script, code = product_scripts()[name], _code(FOLDER / f"{name}.lua")
    used = {int(number) for number in re.findall(r"\bKEYS\[(\d+)\]", code)}
    fixed = [key for key in script.keys if key[-1] not in "*+"]
    assert used <= set(range(1, len(fixed) + 1))
    if script.takes_more_keys:
        assert script.keys[:-1] == tuple(fixed), "only the last may be many"
        first_open = re.search(r"^local FIXED_KEYS = (\d+)$", code, re.MULTILINE)
        begin = int(first_open[1]) + 1 if first_open else int(re.findall(r"= (\d+), #KEYS", code)[0])
        assert begin == len(fixed) + 1
    else:
        assert used == set(range(1, len(fixed) + 1)), "a key in the header that is not used"
        assert "#KEYS" not in code


@pytest.mark.parametrize("name", NAMES)
def test_the_header_names_every_argument(name: str) -> None:
    script, code = product_scripts()[name], _code(FOLDER / f"{name}.lua")
    # A group in brackets and a `name+` are many; an explanation follows a colon.
    words = re.findall(r"\([^)]*\)[*+]|[\w]+[*+]?", script.argv.partition(":")[0])
    fixed = [word for word in words if word[-1] not in "*+"]
    used = {int(number) for number in re.findall(r"\bARGV\[(\d+)\]", code)}
    assert used <= set(range(1, len(words) + 1))
    assert set(range(1, len(fixed) + 1)) <= used
    assert (len(words) > len(fixed)) == bool(re.search(r"ARGV\[[^\d\]]|unpack\(ARGV", code))


@pytest.mark.parametrize("name", NAMES)
def test_what_takes_seats_may_not_run_when_memory_is_full(name: str) -> None:
    assert product_scripts()[name].flags == ("" if name in TAKES else "allow-oom")
    takes = bool(re.search(r"\.take\(|gcra\.charge", _code(FOLDER / f"{name}.lua")))
    assert takes == (name in TAKES_FOR_A_BUYER)


# --- house rules


def test_the_clock_is_read_in_one_file_and_once_a_script() -> None:
    assert [path.name for path in FILES if "'TIME'" in _code(path)] == ["clock.lua"]
    for name in NAMES:
        reads = len(re.findall(r"clock\.now_ms\(\)|cell\.load\(", _code(FOLDER / f"{name}.lua")))
        assert reads <= 1, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_outcomes_are_statuses_and_never_errors(path: Path) -> None:
    assert not re.search(r"redis\.(error_reply|pcall|status_reply)|\berror\s*\(", _code(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_global_is_assigned(path: Path) -> None:
    assert lua_source.assigned_globals(path.read_text()) == set()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("count = 1", {"count"}),
        ("if x then\n    first, second = 1, 2\nend", {"first", "second"}),
        ("function helper(a)\nend", {"helper"}),
        ("local count\ncount = 1\nlocal t = {\n    OK = 1,\n}\nt.field = 2", set()),
        ("local function f(a)\n    a = 1\nend\nfor i = 1, 2 do\n    i = 3\nend", set()),
    ],
)
def test_the_check_for_globals_finds_what_is_planted(code: str, found: set[str]) -> None:
    assert lua_source.assigned_globals(code) == found


# --- statuses


def test_the_python_enum_is_what_the_lua_table_generates() -> None:
    generated = generate_status()
    assert (project_root() / "engine" / "status.py").read_text() == generated, "run `make statuses`"
    rows = re.findall(r"^    (\w+) = (\d+),", (FOLDER / "lib" / "status.lua").read_text(), re.MULTILINE)
    assert [(status.name, str(int(status))) for status in Status] == rows
    assert all(status.__doc__ for status in Status)


def test_every_status_is_used_and_every_used_one_exists() -> None:
    used = {name for path in FILES for name in re.findall(r"\bstatus\.([A-Z_]+)\b", _code(path))}
    assert used == {status.name for status in Status}


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_what_is_answered(name: str) -> None:
    script = product_scripts()[name]
    named = set(re.findall(r"\b[A-Z]{2}[A-Z_]+\b", script.returns)) - {"JSON"}
    assert named <= {status.name for status in Status}
    assert script.returns.startswith("allowed" if name == "rate" else "status")


def test_the_scripts_are_the_files_of_the_folder() -> None:
    assert set(Scripts()) == {path.stem for path in FOLDER.glob("*.lua")}
    verbs = {script.name for script in product_scripts().group("verb")}
    recovery = {script.name for script in product_scripts().group("recovery")}
    assert verbs | recovery == set(NAMES)
    of_bookings = {"reserve", "confirm", "cancel", "expire", "edit", "reject", "rate"}
    assert of_bookings | {"join", "leave", "claim", "admit", "draw"} == verbs
