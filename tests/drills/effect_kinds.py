"""The source of gateway, workers and engine, and of which kind each call in it is."""

import ast
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.drills import effects

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("engine", "gateway", "workers")

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Module:
    """One source file, and what its names stand for."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.name = path.removesuffix(".py").replace("/", ".")
        self.tree = ast.parse(text)
        self.imported: dict[str, str] = {}
        self.queries: dict[str, str] = {}
        """Names of what load_queries returned → the file's name."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    self.imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            match node:
                case ast.Assign(
                    targets=[ast.Name(id=name)],
                    value=ast.Call(func=ast.Name(id="load_queries"), args=[ast.Constant(value=str(file))]),
                ):
                    self.queries[name] = file


class Found(NamedTuple):
    """A function, where it stands, and the class around it."""

    module: Module
    name: str
    """Module, classes and functions around it, its own name."""
    owner: str | None
    node: Function


def words_of(node: ast.expr) -> list[str]:
    """`self._stores.redis.xtrim` → stores, redis, xtrim; [] for what is not a chain of names."""
    words: list[str] = []
    while isinstance(node, ast.Attribute | ast.Call):
        if isinstance(node, ast.Attribute):
            words.append(node.attr)
            node = node.value
        else:
            node = node.func
    if not isinstance(node, ast.Name):
        return []
    words.append(node.id)
    words = [word.lstrip("_") for word in reversed(words)]
    return words[1:] if words[0] == "self" and len(words) > 1 else words


class Program:
    """All modules together."""

    def __init__(self, modules: list[Module], sql: Callable[[str, str], str | None]) -> None:
        self.modules = {module.name: module for module in modules}
        self._sql = sql
        self.functions = [found for module in modules for found in _functions_of(module)]
        self.by_name = {found.name: found for found in self.functions}
        self._effectful = self._find_effectful()

    def kind(self, found: Found, call: ast.Call) -> str | None:
        """`effect`, `commit`, `quiet`, `walked` or `walked effect` (some function of ours that has effects
        in it), None for what nobody has classified."""
        words = words_of(call.func)
        if not words:
            return None
        file = self._query_file(found.module, call)
        if file is not None:
            return self._kind_of_sql(self._sql(file, words[-1]))
        called = ".".join(words[-2:])
        if called in effects.QUIET | effects.PASSED_IN or {words[-1], words[0]} & effects.QUIET:
            return "quiet"
        is_transport = called in effects.TRANSPORTS and not self._is_of_ours(found, call, called)
        if called in effects.COMMANDS and (is_transport or called not in effects.TRANSPORTS):
            return self._kind_of_command(found, call, effects.COMMANDS[called])
        if is_transport or called in effects.ANSWERS:
            return "effect"
        receiver, method = (words[-2], words[-1]) if len(words) > 1 else ("", words[0])
        if receiver in effects.REDIS:
            return self._kind_on_redis(found, receiver, method)
        if receiver in effects.POSTGRES:
            return self._kind_on_postgres(found, call, method)
        target = self._target(found, call, words)
        if target is None:
            return None
        return "walked effect" if target in self._effectful else "walked"

    def _query_file(self, module: Module, call: ast.Call) -> str | None:
        """The file of engine/queries of which a call runs a statement."""
        if not (isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)):
            return None
        name = call.func.value.id
        origin, _, variable = module.imported.get(name, "").rpartition(".")
        if origin in self.modules:
            return self.modules[origin].queries.get(variable)
        return module.queries.get(name)

    def _is_of_ours(self, found: Found, call: ast.Call, called: str) -> bool:
        """`self._call` and `self._run` are methods of several classes, and only one of each is the way to an
        effect; a function of the same module that merely has such a name is none either."""
        match call.func:
            case ast.Name(id=name):
                own = f"{found.module.name}.{name}"
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                own = f"{found.module.name}.{found.owner}.{name}"
            case _:
                return False
        return own in self.by_name and own != effects.TRANSPORTS[called]

    def _kind_of_command(self, found: Found, call: ast.Call, argument: int) -> str:
        command = call.args[argument] if len(call.args) > argument else None
        if isinstance(command, ast.Tuple):
            command = command.elts[0]
        is_read = isinstance(command, ast.Constant) and command.value in effects.COMMANDS_READ
        return "quiet" if is_read or found.module.path.startswith(effects.ONLY_LOOKS) else "effect"

    def _kind_of_sql(self, text: str | None) -> str | None:
        if text is None:
            return None
        return "effect" if effects.SQL_EFFECT.search(text) else "quiet"

    def _kind_on_redis(self, found: Found, receiver: str, method: str) -> str | None:
        if receiver == "pipeline" and method == "execute":
            queued = {
                words_of(node.func)[-1]
                for node in calls_of(found.node)
                if words_of(node.func)[-2:-1] == ["pipeline"]
            }
            return "effect" if queued & effects.REDIS_EFFECTS else "quiet"
        if receiver == "pipeline" and method in effects.REDIS_EFFECTS:
            return "quiet"
        if method in effects.REDIS_EFFECTS:
            return "effect"
        return "quiet" if method in effects.REDIS_READS | effects.REDIS_QUIET else None

    def _kind_on_postgres(self, found: Found, call: ast.Call, method: str) -> str | None:
        if method == "transaction":
            return "commit"
        if method in effects.POSTGRES_EFFECTS:
            return "effect"
        if method in effects.POSTGRES_QUIET:
            return "quiet"
        if method not in effects.POSTGRES_STATEMENTS or not call.args:
            return None
        text = call.args[0]
        if isinstance(text, ast.JoinedStr):
            parts = [part.value for part in text.values if isinstance(part, ast.Constant)]
            return self._kind_of_sql("".join(map(str, parts)))
        if isinstance(text, ast.Constant):
            return self._kind_of_sql(text.value)
        return "quiet" if found.name in effects.READS_WHAT_IT_IS_GIVEN else None

    def _target(self, found: Found, call: ast.Call, words: list[str]) -> str | None:
        """The function of ours that is called; the class, where it is called to make or enter one."""
        match call.func:
            case ast.Name(id=name):
                return self._named(found, name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if found.owner is not None:
                return self.method(found.owner, name)
            case ast.Attribute(value=ast.Name(id=base), attr=name) if (
                found.module.imported.get(base) in self.modules
            ):
                return self._known(f"{found.module.imported[base]}.{name}")
            case ast.Attribute(attr=name) if words[-2] in effects.OBJECTS:
                return self.method(effects.OBJECTS[words[-2]], name)
        return None

    def _named(self, found: Found, name: str) -> str | None:
        scope = found.name
        while scope:
            if (known := self._known(f"{scope}.{name}")) is not None:
                return known
            scope = scope.rpartition(".")[0]
        return self._known(found.module.imported.get(name, ""))

    def _known(self, name: str) -> str | None:
        if name in self.by_name:
            return name
        return name if f"{name}.__aenter__" in self.by_name else None

    def method(self, owner: str, name: str) -> str | None:
        """The full name of a class' method."""
        for found in self.functions:
            if found.owner == owner and found.name.endswith(f".{owner}.{name}"):
                return found.name
        return None

    def _find_effectful(self) -> set[str]:
        """Functions that have an effect somewhere down the line."""
        self._effectful: set[str] = set()
        while True:
            more = {
                found.name
                for found in self.functions
                if found.name not in self._effectful
                and any(
                    self.kind(found, call) in ("effect", "walked effect") for call in calls_of(found.node)
                )
            }
            if not more:
                return self._effectful
            self._effectful |= more


def _functions_of(module: Module) -> Iterator[Found]:
    def within(node: ast.AST, name: str, owner: str | None) -> Iterator[Found]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                yield from within(child, f"{name}.{child.name}", child.name)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                own = "lambda" if isinstance(child, ast.Lambda) else child.name
                yield Found(module, f"{name}.{own}", owner, child)
                yield from within(child, f"{name}.{own}", owner)
            else:
                yield from within(child, name, owner)

    return within(module.tree, module.name, None)


def calls_of(function: ast.AST) -> Iterator[ast.Call]:
    """The calls of a function, in the order of the text, without those of functions inside it."""
    for node in _own(function):
        if isinstance(node, ast.Call):
            yield node


def _own(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _own(child)
            yield child


@functools.cache
def _statements(file: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    path = ROOT / "engine" / "queries" / f"{file}.sql"
    for part in path.read_text(encoding="utf-8").split("-- name: ")[1:]:
        head, _, rest = part.partition("\n")
        lines = [line for line in rest.splitlines() if not line.startswith("--")]
        texts[head.partition("(")[0].strip()] = "\n".join(lines)
    return texts


def sql_of_this_project(file: str, name: str) -> str | None:
    """The text of one statement of engine/queries; None where there is none of that name."""
    return _statements(file).get(name)


def this_program() -> Program:
    """gateway, workers and engine as they are."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    modules = [Module(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]
    return Program(modules, sql_of_this_project)
