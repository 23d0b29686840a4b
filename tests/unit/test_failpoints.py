"""Fail points: that they strike where they are told to, and that none is missing.

Every snippet below is a worker that somebody might write; the walk must find what it lacks.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import failpoints
from engine.failpoints import arm, failpoint
from engine.settings import SettingsError, load_settings
from tests.drills import effects
from tests.drills.effect_kinds import ROOT, Module, Program, sql_of_this_project, this_program
from tests.drills.effect_walk import walk
from tests.drills.failpoints import table

SECRET = "x" * 32


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm("")


class Blows:
    """Stands in the place of `os.kill`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.signals: list[int] = []
        monkeypatch.setattr(os, "kill", self._kill)

    def _kill(self, pid: int, number: int) -> None:
        assert pid == os.getpid()
        self.signals.append(number)


@pytest.fixture
def blows(monkeypatch: pytest.MonkeyPatch) -> Blows:
    return Blows(monkeypatch)


def test_it_strikes_once_and_only_when_the_time_has_come(blows: Blows, tmp_path: Path) -> None:
    file = tmp_path / "struck"
    arm(f"relay.after_trim:2:kill:{file}")
    for name in ("relay.after_trim", "relay.after_fence", "relay.after_fence"):
        failpoint(name)
        assert not blows.signals
        assert not file.exists()
    failpoint("relay.after_trim")
    assert blows.signals == [signal.SIGKILL]
    assert file.exists()
    failpoint("relay.after_trim")
    assert len(blows.signals) == 1


def test_it_can_freeze_the_process_instead(blows: Blows, tmp_path: Path) -> None:
    arm(f"relay.after_trim:1:stop:{tmp_path / 'a:b'}")
    failpoint("relay.after_trim")
    assert blows.signals == [signal.SIGSTOP]
    assert (tmp_path / "a:b").exists()


def test_where_it_struck_before_the_process_that_comes_after_lives(blows: Blows, tmp_path: Path) -> None:
    text = f"relay.after_trim:1:kill:{tmp_path / 'struck'}"
    for _ in range(2):
        arm(text)
        failpoint("relay.after_trim")
    assert len(blows.signals) == 1


def test_disarmed_it_does_nothing(blows: Blows, tmp_path: Path) -> None:
    arm(f"relay.after_trim:1:kill:{tmp_path / 'struck'}")
    arm("")
    failpoint("relay.after_trim")
    assert not blows.signals


@pytest.mark.parametrize(
    "text", ["x", "a.b:1:kill", "a.b:1:kill:", "a.b:0:kill:f", "a.b:x:kill:f", "a.b:1:hit:f", ":1:kill:f"]
)
def test_what_does_not_say_where_and_how_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="NAME:NUMBER:"):
        arm(text)


def test_the_process_really_ends_there(tmp_path: Path) -> None:
    program = (
        "from engine.failpoints import arm, failpoint; import sys; arm(sys.argv[1]);"
        "failpoint('a.b'); print('once', flush=True); failpoint('a.b'); print('twice')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"a.b:2:kill:{tmp_path / 'struck'}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "once\n")


def test_only_development_may_be_struck() -> None:
    environment = {"RUSH_FAILPOINT": "a.b:1:kill:f", "RUSH_JWT_SECRET": SECRET}
    with pytest.raises(SettingsError, match="only RUSH_ENV=development"):
        load_settings(environment)
    assert load_settings(environment | {"RUSH_ENV": "development"}).failpoint == "a.b:1:kill:f"


@pytest.mark.parametrize("command", [["serve"], ["work", "relay"]])
def test_the_commands_arm_what_they_are_told(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rush", *command],
        cwd=ROOT,
        env=os.environ | {"RUSH_ENV": "development", "RUSH_JWT_SECRET": SECRET, "RUSH_FAILPOINT": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "RUSH_FAILPOINT must be" in done.stderr


def test_off_it_looks_at_nothing_but_whether_it_is_armed() -> None:
    """What it costs: one look at a global."""
    code = failpoints.failpoint.__code__
    assert code.co_names == ("_armed", "reached")


# None is missing.

WORKER = """
from engine.failpoints import failpoint
from engine.sql import load_queries

queries = load_queries("x")

class Worker:
    async def step(self, connection, client):
{body}

    async def other(self, connection):
        await connection.execute("UPDATE a SET b = 1")
        failpoint("x.other")

    def hears(self, reply):
        failpoint("x.hears")

    def overhears(self, reply):
        pass
"""
SQL = {"write": "INSERT INTO a VALUES (1)", "read": "SELECT 1 FROM a FOR UPDATE OF a", "lock": "SET x = 1"}


def problems_of(body: str) -> list[str]:
    text = WORKER.format(body="\n".join(f"        {line}" for line in body.strip("\n").splitlines()))
    return walk(Program([Module("workers/x.py", text)], lambda file, name: SQL.get(name))).problems


COMPLETE = [
    "await client.xtrim(1)\nfailpoint('x.a')",
    "await client.xtrim(1)\nfailpoint('x.a')\nawait queries.write(connection)\nfailpoint('x.b')",
    "await queries.read(connection)\nawait client.hmget(1)\nawait queries.lock(connection)",
    "await self.other(connection)\nawait client.publish(1)\nfailpoint('x.a')",
    "for i in x:\n    await client.xtrim(i)\n    failpoint('x.a')\nreturn 1",
    "if x:\n    await client.xtrim(1)\n    failpoint('x.a')\nelse:\n    return 2",
    "async with connection.transaction():\n    await queries.write(connection)\n    failpoint('x.a')\n"
    "failpoint('x.b')",
    "async with connection.transaction():\n    await self.other(connection)\nfailpoint('x.b')",
    "async with connection.transaction():\n    if await queries.read(connection):\n        return\n"
    "    await queries.write(connection)\n    failpoint('x.a')\nfailpoint('x.b')",
    "reply = stores.line.call('EVALSHA')\nfailpoint('x.a')\nreply.add_done_callback(self.hears)\n",
    "await stores.line.call('HGET', 1)\nawait ask(address, ('ROLE',), 1)",
    "pipeline.hmget(1)\nawait pipeline.execute()",
    "try:\n    await client.xtrim(1)\n    failpoint('x.a')\nexcept E:\n    return\nawait client.info()",
]
LACKING = {
    "await client.xtrim(1)": "client.xtrim has no fail point before the end",
    "return await client.xtrim(1)": "client.xtrim has no fail point before line",
    "await client.xtrim(1)\nawait queries.write(connection)\nfailpoint('x.a')": "before queries.write",
    "await connection.execute('DELETE FROM a')": "connection.execute has no",
    "await connection.execute('SELECT pg_notify($1, $2)', 1)": "connection.execute has no",
    "await connection.execute(f'TRUNCATE {x}')": "connection.execute has no",
    "await connection.copy_to_table('a')": "connection.copy_to_table has no",
    "await self._run('edit', [])": "self._run has no",
    "await self._stores.run('edit', [])": "self._stores.run has no",
    "await send({})": "send has no",
    "await ask(address, ('REPLICAOF', 'NO', 'ONE'), 1)": "ask has no",
    "socket.sendall(b'x')": "is in no table",
    "for i in x:\n    failpoint('x.a')\n    await client.xtrim(i)": "before the end",
    "for i in x:\n    await client.xtrim(i)\nfailpoint('x.a')": "before client.xtrim in line",
    "while True:\n    if x:\n        continue\n    await client.xtrim(1)": "before client.xtrim in line",
    "while x:\n    await client.xtrim(1)\n    if y:\n        break\n    failpoint('x.a')": "before the end",
    "if x:\n    await client.xtrim(1)\nelse:\n    failpoint('x.a')": "before the end",
    "match x:\n    case 1:\n        await client.xtrim(1)\n    case _:\n        pass": "before the end",
    "await client.xtrim(1)\nraise ValueError": "before line",
    "try:\n    await client.xtrim(1)\nexcept E:\n    failpoint('x.a')": "before the end",
    "try:\n    pass\nexcept E:\n    await client.xtrim(1)": "before the end",
    "try:\n    pass\nfinally:\n    await client.xtrim(1)": "before the end",
    "async with connection.transaction():\n    await self.other(connection)": "the commit has no fail point",
    "async with connection.transaction():\n    await queries.write(connection)\nfailpoint('x.a')": (
        "before the commit"
    ),
    "async with connection.transaction():\n    await self.other(connection)\n    return": "out of a",
    "x = [await client.xtrim(i) for i in y]\nfailpoint('x.a')": "before client.xtrim",
    "await asyncio.gather(client.xtrim(1), client.xtrim(2))\nfailpoint('x.a')": "before client.xtrim",
    "pipeline.xtrim(1)\nawait pipeline.execute()": "pipeline.execute has no",
    "reply = stores.line.call('EVALSHA')\nfailpoint('x.a')\n"
    "reply.add_done_callback(partial(self.overhears, 1))": "the answer to stores.line.call",
    "await client.xtrim(1)\nyield 1": "where it yields",
    "async def inner():\n    await client.xtrim(1)": "client.xtrim has no",
    "x = lambda: client.xtrim(1)": "client.xtrim has no",
    "await client.xtrim(1)\nfailpoint(name)": "is a literal",
    "f = queries.write": "is passed on",
    # What nobody has looked at might be an effect.
    "await helper.send_everything()": "is in no table",
    "await send_everything()": "is in no table",
    "await self.publish()": "is in no table",
    "await client.bitfield(1)": "is in no table",
    "client.bitfield(1)": "is in no table",
    "await queries.unheard_of(connection)": "is in no table",
    "await connection.fetch(text)": "is in no table",
    "async with helper.opened():\n    pass": "is in no table",
    "async for i in helper.all():\n    pass": "is in no table",
}


@pytest.mark.parametrize("body", COMPLETE)
def test_where_every_effect_is_followed_by_a_point_nothing_is_found(body: str) -> None:
    assert problems_of(body) == []


@pytest.mark.parametrize(("body", "said"), LACKING.items())
def test_a_point_that_is_missing_is_found(body: str, said: str) -> None:
    found = problems_of(body)
    assert any(said in problem for problem in found), found


def test_every_effect_of_the_program_is_followed_by_a_fail_point() -> None:
    assert walk(this_program()).problems == []


def test_without_its_fail_points_the_program_is_found_wanting_at_each_of_them() -> None:
    """The negative control for the program as it is."""
    program = this_program()
    count = len(walk(program).points)
    bare = [
        Module(
            module.path,
            re.sub(r'^( *)failpoint\("[^"]*"\)$', r"\1pass", (ROOT / module.path).read_text(), flags=re.M),
        )
        for module in program.modules.values()
    ]
    walked = walk(Program(bare, sql_of_this_project))
    assert walked.points == []
    assert len({problem.partition(" has no fail point")[0] for problem in walked.problems}) >= count


def test_a_fail_point_is_named_once_and_after_its_file() -> None:
    points = walk(this_program()).points
    names = [point.name for point in points]
    assert len(set(names)) == len(names)
    for point in points:
        file, _, done = point.name.partition(".")
        assert file == Path(point.where.partition(":")[0]).stem, point
        assert re.fullmatch(r"after_[a-z_]+", done), point
        assert point.effect, f"{point.name} follows no effect"


def test_every_fail_point_stands_in_the_table() -> None:
    points = walk(this_program()).points
    text = table(points)
    calls = [
        name
        for path in ("engine", "gateway", "workers")
        for file in (ROOT / path).rglob("*.py")
        for name in re.findall(r"^\s*failpoint\(\"(.*)\"\)", file.read_text(), flags=re.M)
    ]
    assert sorted(calls) == [point.name for point in points]
    assert all(name in text for name in calls)


def test_the_tables_of_effects_name_nothing_that_is_gone() -> None:
    program = this_program()
    for name in [*effects.TRANSPORTS.values(), *effects.NOT_OF_A_PROCESS]:
        assert name in program.by_name, name
    owners = {found.owner for found in program.functions}
    assert set(effects.OBJECTS.values()) <= owners


def test_nothing_that_runs_calls_what_is_for_setting_up() -> None:
    for name in effects.NOT_OF_A_PROCESS:
        method = name.rpartition(".")[2]
        for path in ("gateway", "workers"):
            for file in (ROOT / path).rglob("*.py"):
                assert f".{method}(" not in file.read_text(), file
