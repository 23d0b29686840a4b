"""The loader: what it bundles is what the server runs, and its messages name the file."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from engine.scripts import ScriptError, Scripts, generate_status
from engine.settings import project_root
from engine.status import Status
from tests.lua.cellkit import Backend, Cell, Zone, fake_backend, product_scripts
from tests.stores import RedisServer

ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"


@pytest.fixture
def lua(tmp_path: Path) -> Path:
    """A copy of the folder, to be broken."""
    return Path(shutil.copytree(project_root() / "lua", tmp_path / "lua"))


def plant(path: Path, after: str, line: str) -> int:
    """Put a line behind the only one that begins with `after`; its number."""
    lines = path.read_text().splitlines()
    [number] = [number for number, each in enumerate(lines, 1) if each.startswith(after)]
    lines.insert(number, line)
    path.write_text("\n".join(lines) + "\n")
    return number + 1


# --- what the server gets


def test_the_server_computes_the_sha_that_the_loader_says(real_backend: Backend) -> None:
    for script in product_scripts().values():
        assert real_backend.client.script_load(script.source) == script.sha
        assert script.source == f"{script.source.splitlines()[0]}\n{script.source_plain}"
        assert script.source.startswith("#!lua")


def test_each_module_is_bundled_once_and_before_its_users() -> None:
    for script in product_scripts().values():
        assert "require" not in script.source
        modules = re.findall(r"^local (\w+) = \(function\(\)$", script.source, re.MULTILINE)
        assert len(modules) == len(set(modules))
        for module in modules:
            first_use = re.search(rf"\b{module}\.\w+[(,]", script.source)
            assert first_use is None or first_use.start() > script.source.index(f"local {module} = ")


def test_each_line_of_a_bundle_knows_where_it_comes_from() -> None:
    for script in product_scripts().values():
        lines = script.source.splitlines()
        assert len(lines) == len(script.origins)
        for line, (file, number) in list(zip(lines, script.origins, strict=True))[1:]:
            if "(function()" not in line and line != "end)()":
                assert (project_root() / file).read_text().splitlines()[number - 1] == line


def test_no_script_assigns_a_global(real_backend: Backend) -> None:
    """The server refuses it when it happens, so go once through every script."""
    cell = Cell(real_backend, [Zone(price_minor=5)])
    bookings = [cell.hold(ALICE, fingerprint="f") for _ in range(4)]
    answers = [
        cell.confirm(ALICE, bookings[0], paid=True),
        cell.cancel(ALICE, bookings[1]),
        cell.reject(bookings[2]),
        cell.edit(1, {"zones": [{"zone_id": cell.zones[0], "capacity": 50, "price_minor": 1}]}),
    ]
    cell.forward(60_000)
    answers += [cell.expire(), cell.fence(), cell.open(1, 9, 2), cell.fence("t")]
    answers += [cell.build_begin("3-t"), cell.build_wipe("3-t", [cell.keys.ledger])]
    answers += [cell.build_load("3-t", {})]
    assert [answer.status.name for answer in answers] == ["OK"] * len(answers)
    assert real_backend.call("rate", ["rush:rate:{x}"], 1_000, 1) == [1, 0, 0]


def test_the_server_stops_a_script_that_assigns_a_global(lua: Path, real_backend: Backend) -> None:
    number = plant(lua / "fence.lua", "local epoch", "stray = epoch")
    backend = Backend(real_backend.client, Scripts(lua))
    cell = Cell(backend)
    with pytest.raises(redis.ResponseError, match=rf"lua/fence\.lua:{number}: "):
        cell.fence()


# --- errors name file and line


@pytest.mark.parametrize(
    ("file", "after"),
    [
        ("confirm.lua", "local booking_id"),
        ("confirm.lua", "local record = booking.load"),
        ("lib/cell.lua", "    local fields = redis.call"),
        ("lib/status.lua", "local status = {"),
        ("lib/ledger.lua", "    local id = "),
    ],
)
def test_an_error_names_the_file_and_the_line_that_it_comes_from(
    lua: Path, real_backend: Backend, file: str, after: str
) -> None:
    good = Cell(real_backend)
    booking = good.hold(ALICE)
    number = plant(lua / file, after, "    [nil] = 1," if "status" in file else "    error('planted')")
    good.backend = Backend(real_backend.client, Scripts(lua))
    with pytest.raises(redis.ResponseError, match=rf"lua/{re.escape(file)}:{number}: ") as caught:
        good.confirm(ALICE, booking)
    assert "user_script" not in str(caught.value).partition(" script: ")[0]


def test_an_error_that_names_no_line_stays_as_it_is() -> None:
    script = product_scripts()["confirm"]
    for message in ("NOSCRIPT No matching script", "user_script:99999: beyond the end"):
        assert script.locate(message) == message


# --- what the loader refuses

HEADER = "-- x: a script.\n-- KEYS sale\n-- RETURNS status\n-- GROUP verb\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-- x: a script.\n-- RETURNS status\n-- GROUP verb\nreturn 1\n", r"x\.lua: the header has no KEYS"),
        ("-- x: a script.\n-- KEYS sale\n-- GROUP verb\nreturn 1\n", r"x\.lua: the header has no RETURNS"),
        ("-- x: a script.\n-- KEYS sale\n-- RETURNS status\nreturn 1\n", r"x\.lua: the header has no GROUP"),
        ("return 1\n" + HEADER, r"the header has no KEYS"),
        (HEADER.replace("verb", "verbs"), r"GROUP is 'verbs'"),
        (HEADER + "local nowhere = require('nowhere')\n", r"x\.lua:5: there is no .*lib/nowhere\.lua"),
        (HEADER + "\nlocal s = require('status')\n", r"x\.lua:6: a module keeps its name"),
    ],
)
def test_the_loader_refuses_and_says_where(lua: Path, text: str, message: str) -> None:
    (lua / "x.lua").write_text(text)
    with pytest.raises(ScriptError, match=message):
        Scripts(lua)


def test_a_header_is_read_over_several_lines(lua: Path) -> None:
    lines = ["-- x: a script.", "-- KEYS sale zone*", "-- ARGV one", "--     two", "-- RETURNS status"]
    (lua / "x.lua").write_text("\n".join([*lines, "-- GROUP recovery", "", "return 1"]))
    script = Scripts(lua)["x"]
    assert (script.argv, script.flags, script.group) == ("one two", "", "recovery")
    assert (script.keys_min, script.takes_more_keys) == (1, True)
    assert script.source.startswith("#!lua\n")
    assert product_scripts()["reserve"].keys_min == 8
    assert not product_scripts()["confirm"].takes_more_keys


def test_a_gap_in_the_status_table_is_refused(lua: Path) -> None:
    table = lua / "lib" / "status.lua"
    table.write_text(re.sub(r"^    REPLAYED = 3,.*\n", "", table.read_text(), flags=re.MULTILINE))
    with pytest.raises(ScriptError, match="without a gap"):
        generate_status(lua)


def test_the_scripts_are_the_same_on_fakeredis() -> None:
    backend = fake_backend()
    cell = Cell(backend)
    assert cell.confirm(ALICE, cell.hold(ALICE)).status == Status.OK
    assert not backend.is_real


# --- memory is full


def test_with_memory_full_nothing_is_taken_and_everything_can_be_given_back(
    new_redis: Callable[[], RedisServer],
) -> None:
    with redis.Redis.from_url(new_redis().url) as client:
        cell = Cell(Backend(client), [Zone(100)], max_per_user=100)
        bookings = [cell.hold(ALICE) for _ in range(5)]
        client.config_set("maxmemory", 1)
        before = cell.dump()
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            cell.reserve(BOB, [(cell.zones[0], 1)])
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            cell.backend.call("rate", ["rush:rate:{x}"], 1_000, 1)
        assert cell.dump() == before
        capacity = {"zones": [{"zone_id": cell.zones[0], "capacity": 99}]}
        at_ms = cell.now_ms
        assert cell.confirm(ALICE, bookings[0]).status == Status.OK
        assert cell.cancel(ALICE, bookings[1]).status == Status.OK
        assert cell.reject(bookings[2]).status == Status.OK
        assert cell.edit(1, capacity).status == Status.OK
        assert cell.expire().detail[:2] == (0, at_ms + 60_000)
        assert cell.fence().status == Status.OK
        assert cell.open(1, 9, 2).status == Status.OK
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            cell.reserve(BOB, [(cell.zones[0], 1)])
        client.config_set("maxmemory", 0)
        assert cell.reserve(BOB, [(cell.zones[0], 1)])[1].status == Status.OK
        cell.assert_adds_up()


def test_a_deadline_is_kept_with_memory_full(new_redis: Callable[[], RedisServer]) -> None:
    with redis.Redis.from_url(new_redis().url) as client:
        cell = Cell(Backend(client))
        booking = cell.hold(ALICE)
        cell.forward(60_000)
        client.config_set("maxmemory", 1)
        assert cell.expire().detail[0] == 1
        assert cell.booking(booking)["status"] == "expired"
