"""House rules as a test. Each rule is shown to catch what it forbids, on a source made for it."""

import ast
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
THIS = "tests/unit/test_tidy.py"
"""The one file that spells what is forbidden."""
PACKAGES = ("engine", "gateway", "workers", "observability", "loadtest", "rush")
FOLDERS = (*PACKAGES, "lua", "migrations", "tests", "requirements", ".ci")
TEXT = {".py", ".lua", ".sql", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".sh", ".cfg", ".html", ""}
LINES_MAX = 400
TEST_LINES_MAX = 500
"""Tables of cases are long, and read line by line."""
KEY = re.compile(r"rush:[^\s]")
MAY_LOAD_SCRIPTS = re.compile(
    r"engine/(lift|rebuild|recovery\w*)\.py|workers/recovery\.py|loadtest/simulation/cell\.py"
)

Rule = Callable[[str, str], list[str]]


def files() -> Iterator[tuple[str, str]]:
    """Every text file of the project: its path from the root, and its text."""
    # In a worktree .git is a file, and not the project's.
    found = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in sorted(found):
        if path.suffix in TEXT and "__pycache__" not in path.parts:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def is_module(path: str) -> bool:
    return path.endswith(".py") and path.startswith(tuple(f"{package}/" for package in PACKAGES))


def at(node: ast.AST, what: str) -> str:
    return f"line {getattr(node, 'lineno', 0)}: {what}"


def environment_is_read_in_settings_only(path: str, text: str) -> list[str]:
    if not is_module(path) or path == "engine/settings.py":
        return []
    names = {"environ", "environb", "getenv", "getenvb"}
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and node.attr in names:
            found.append(at(node, node.attr))
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            found += [at(node, alias.name) for alias in node.names if alias.name in names]
    return found


def redis_keys_are_spelled_in_keys_only(path: str, text: str) -> list[str]:
    if path.endswith(".lua"):
        return [f"line {number}" for number, line in enumerate(text.splitlines(), 1) if KEY.search(line)]
    if not is_module(path) or path == "engine/keys.py":
        return []
    return [
        at(node, node.value)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and KEY.match(node.value)
    ]


def only_recovery_loads_scripts(path: str, text: str) -> list[str]:
    if not is_module(path) or MAY_LOAD_SCRIPTS.fullmatch(path):
        return []
    methods = {"eval", "eval_ro", "register_script", "script_load", "function_load"}
    commands = re.compile(r"EVAL(_RO)?|SCRIPT LOAD|FUNCTION LOAD")
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in methods:
            found.append(at(node, node.func.attr))
        words = [
            argument.value.decode("latin-1") if isinstance(argument.value, bytes) else str(argument.value)
            for argument in node.args
            if isinstance(argument, ast.Constant)
        ]
        spoken = [*words, *(f"{one} {two}" for one, two in pairwise(words))]
        found += [at(node, word) for word in spoken if commands.fullmatch(word.upper())]
    return found


def nothing_is_left_to_do(path: str, text: str) -> list[str]:
    words = re.compile(r"\b(FIXME|TODO|XXX|HACK)\b")
    return [
        f"line {number}"
        for number, line in enumerate(text.splitlines(), 1)
        if words.search(line) and path != THIS
    ]


def nobody_prints_but_the_commands(path: str, text: str) -> list[str]:
    if not is_module(path) or path.startswith(("rush/", "loadtest/")):
        return []
    return [
        at(node, "print")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def modules_are_small(path: str, text: str) -> list[str]:
    lines = text.count("\n")
    allowed = TEST_LINES_MAX if path.startswith("tests/") else LINES_MAX
    too_long = path.endswith((".py", ".lua")) and lines > allowed
    return [f"{lines} lines, {allowed} at most"] if too_long else []


def what_the_engine_offers_is_described(path: str, text: str) -> list[str]:
    if not path.startswith("engine/") or not path.endswith(".py"):
        return []

    def undescribed(body: list[ast.stmt]) -> Iterator[str]:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None:
                yield at(node, node.name)
            if isinstance(node, ast.ClassDef):
                yield from undescribed(node.body)

    tree = ast.parse(text)
    return list(undescribed(tree.body)) + ([] if ast.get_docstring(tree) else ["the module itself"])


def nothing_names_a_registry_or_a_machine(path: str, text: str) -> list[str]:
    registry = (
        r"(?<!emit-)index-url|find-links|trusted-host|pythonhosted\.|pypi\.org|/simple/?\b|artifactory|devpi"
    )
    machine = r"(?<![\w.~$}/-])/(root|home|work|Users|tmp)/\w"
    forbidden = re.compile(f"{registry}|{machine}")
    return [
        f"line {number}: {match[0]}"
        for number, line in enumerate(text.splitlines(), 1)
        if (match := forbidden.search(line)) and path != THIS
    ]


RULES: dict[Rule, list[tuple[str, str]]] = {
    environment_is_read_in_settings_only: [
        ("gateway/x.py", "import os\nos.environ['A']"),
        ("rush/x.py", "import os\nos.getenv('A')"),
        ("engine/x.py", "from os import environ"),
    ],
    redis_keys_are_spelled_in_keys_only: [
        ("workers/x.py", "key = 'rush:{1.0}:sale'"),
        ("workers/x.py", "key = f'rush:{{{tag}}}:sale'"),
        ("lua/x.lua", "local key = 'rush:{1.0}:sale'"),
    ],
    only_recovery_loads_scripts: [
        ("engine/bookings.py", "client.eval('return 1', 0)"),
        ("engine/bookings.py", "client.register_script(text)"),
        ("gateway/x.py", "line.call('EVAL', text, 0)"),
        ("gateway/x.py", "line.call('script', b'load', text)"),
        ("workers/relay.py", "client.execute_command('SCRIPT LOAD', text)"),
    ],
    nothing_is_left_to_do: [("README.md", "TODO: more"), ("lua/x.lua", "-- FIXME")],
    nobody_prints_but_the_commands: [("engine/x.py", "print('x')")],
    modules_are_small: [("lua/x.lua", "\n" * 401), ("tests/x.py", "\n" * 501)],
    what_the_engine_offers_is_described: [
        ("engine/x.py", "x = 1"),
        ("engine/x.py", '"""x"""\ndef f(): pass'),
        ("engine/x.py", '"""x"""\nclass C:\n  """c"""\n  async def f(self): pass'),
    ],
    nothing_names_a_registry_or_a_machine: [
        ("requirements/x.txt", "--index-url https://example.org/"),
        ("README.md", "as in /home/ann/rush"),
        ("x.toml", 'path = "/root/x"'),
    ],
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_rules_are_kept(rule: Rule) -> None:
    broken = [f"{path}: {violation}" for path, text in files() for violation in rule(path, text)]
    assert not broken, "\n".join([rule.__name__.replace("_", " "), *broken])


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [(rule, *offence) for rule, offences in RULES.items() for offence in offences],
    ids=lambda value: value.__name__ if callable(value) else repr(value),
)
def test_a_rule_catches_what_it_forbids(rule: Rule, path: str, text: str) -> None:
    assert rule(path, text)


def test_the_clock_of_redis_is_read_in_one_lua_file() -> None:
    readers = [path for path, text in files() if path.endswith(".lua") and re.search(r"['\"]TIME['\"]", text)]
    assert len(readers) <= 1, readers


def test_the_rules_look_at_the_whole_project() -> None:
    seen = {path for path, _ in files()}
    assert {"engine/hotline.py", "pyproject.toml", "tests/unit/test_tidy.py"} <= seen
    assert not any(path.startswith((".venv", ".rush", ".git/")) for path in seen)
