"""Reads gateway, workers and engine, and finds effects that no fail point follows.

Every function is followed along its paths. From an effect to the next one, and to the end of the function,
there must be a `failpoint(...)`; in a loop, the next one may be the same. The end of a transaction's block is
an effect where the block has one. What a function leads to when it raises in the middle is not followed.
"""

import ast
import functools
from typing import NamedTuple

from tests.drills import effects
from tests.drills.effect_kinds import Found, Program, calls_of, words_of


class Point(NamedTuple):
    """One fail point."""

    name: str
    where: str
    """File and line."""
    effect: str
    """The call that has just been made."""


class State(NamedTuple):
    """What is known at one place of a function, on some path to it."""

    pending: frozenset[str] = frozenset()
    """Effects that no fail point has followed yet."""
    is_dirty: bool = False
    """Whether the transaction that is open has had an effect."""
    last: str = ""
    """The effect that came last: what a fail point is behind."""

    def joined(self, other: "State | None") -> "State":
        if other is None:
            return self
        return State(self.pending | other.pending, self.is_dirty or other.is_dirty, self.last or other.last)


class _Walk:
    """One function, followed along its paths."""

    def __init__(self, program: Program, found: Found) -> None:
        self._program = program
        self._found = found
        self.problems: dict[str, None] = {}
        self.points: dict[Point, None] = {}
        self._exits: list[dict[str, State | None]] = []
        self._in_transaction = 0

    def run(self, state: State) -> None:
        node = self._found.node
        if isinstance(node, ast.Lambda):
            end: State | None = self._expression(node.body, state)
        else:
            end = self._block(node.body, state)
        if end is not None:
            self._ends(end, "the end of the function")

    def _at(self, node: ast.AST) -> str:
        return f"{self._found.module.path}:{getattr(node, 'lineno', 0)}"

    def _problem(self, node: ast.AST, text: str) -> None:
        self.problems[f"{self._at(node)}: {text}"] = None

    def _ends(self, state: State, where: str) -> None:
        for effect in sorted(state.pending):
            self.problems[f"{effect} has no fail point before {where}"] = None

    # Statements. None: nothing goes on from here.

    def _block(self, body: list[ast.stmt], state: State | None) -> State | None:
        for statement in body:
            if state is None:
                return None
            state = self._statement(statement, state)
        return state

    def _statement(self, node: ast.stmt, state: State) -> State | None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                return state
            case ast.Return() | ast.Raise():
                after = self._expressions(node, state)
                self._ends(after, f"line {node.lineno}")
                if isinstance(node, ast.Return) and self._in_transaction and after.is_dirty:
                    self._problem(node, "returns out of a transaction: no fail point can follow its commit")
                return None
            case ast.Break() | ast.Continue():
                kind = "break" if isinstance(node, ast.Break) else "continue"
                self._exits[-1][kind] = state.joined(self._exits[-1][kind])
                return None
            case ast.If():
                state = self._expression(node.test, state)
                return _join(self._block(node.body, state), self._block(node.orelse, state))
            case ast.While():
                is_endless = isinstance(node.test, ast.Constant) and bool(node.test.value)
                return self._loop(node, node.test, state, is_endless=is_endless)
            case ast.For() | ast.AsyncFor():
                state = self._expression(node.iter, state, is_waited=isinstance(node, ast.AsyncFor))
                return self._loop(node, None, state)
            case ast.With() | ast.AsyncWith():
                return self._with(node, state)
            case ast.Try():
                return self._try(node, state)
            case ast.Match():
                state = self._expression(node.subject, state)
                ends = [self._block(case.body, state) for case in node.cases]
                return functools.reduce(_join, ends, state)
            case _:
                return self._expressions(node, state)

    def _loop(
        self,
        node: ast.While | ast.For | ast.AsyncFor,
        test: ast.expr | None,
        state: State,
        *,
        is_endless: bool = False,
    ) -> State | None:
        after: State | None = None
        # Twice: what is pending at the end of a round meets the beginning of the next.
        for _ in range(2):
            if test is not None:
                state = self._expression(test, state)
            self._exits.append({"break": None, "continue": None})
            end = self._block(node.body, state)
            exits = self._exits.pop()
            round_ = _join(end, exits["continue"])
            after = _join(after, exits["break"])
            if round_ is None:
                break
            state = state.joined(round_)
        if not is_endless:
            after = _join(after, self._block(node.orelse, state) if node.orelse else state)
        return after

    def _with(self, node: ast.With | ast.AsyncWith, state: State) -> State | None:
        commits = False
        for item in node.items:
            is_waited = isinstance(node, ast.AsyncWith)
            call = item.context_expr
            if isinstance(call, ast.Call) and self._program.kind(self._found, call) == "commit":
                commits = True
                continue
            state = self._expression(call, state, is_waited=is_waited)
        if not commits:
            return self._block(node.body, state)
        outer_dirty = state.is_dirty
        self._in_transaction += 1
        end = self._block(node.body, state._replace(is_dirty=False))
        self._in_transaction -= 1
        if end is None:
            return None
        if end.is_dirty:
            end = self._effect(node, "the commit", end)
        return end._replace(is_dirty=outer_dirty or end.is_dirty)

    def _try(self, node: ast.Try, state: State) -> State | None:
        end = self._block(node.body, state)
        if end is not None and node.orelse:
            end = self._block(node.orelse, end)
        for handler in node.handlers:
            end = _join(end, self._block(handler.body, state))
        if node.finalbody:
            after = self._block(node.finalbody, end if end is not None else State())
            return after if end is not None else None
        return end

    # Expressions.

    def _expressions(self, node: ast.AST, state: State) -> State:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                state = self._expression(child, state)
        return state

    def _expression(self, node: ast.expr, state: State, *, is_waited: bool = False) -> State:
        match node:
            case ast.Lambda():
                return state
            case ast.Await():
                return self._expression(node.value, state, is_waited=True)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                for _ in range(2):
                    for generator in node.generators:
                        state = self._expression(generator.iter, state, is_waited=bool(generator.is_async))
                    element = node.value if isinstance(node, ast.DictComp) else node.elt
                    state = self._expression(element, state)
                return state
            case ast.Yield() | ast.YieldFrom():
                state = self._expressions(node, state)
                self._ends(state, f"line {node.lineno}, where it yields")
                return state._replace(pending=frozenset())
            case ast.Call():
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr) and child is not node.func:
                        state = self._expression(child, state)
                if isinstance(node.func, ast.Attribute):
                    state = self._expression(node.func.value, state)
                return self._call(node, state, is_waited=is_waited)
            case ast.Attribute():
                self._check_passed(node)
                return self._expressions(node, state)
            case _:
                return self._expressions(node, state)

    def _check_passed(self, node: ast.Attribute) -> None:
        """An effect that is named without being called would be called where nobody knows it."""
        if isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Load):
            asked = ast.Call(func=node, args=[], keywords=[])
            is_query = node.value.id in self._found.module.queries
            if is_query and self._program.kind(self._found, asked) == "effect":
                self._problem(node, f"{ast.unparse(node)} is passed on instead of being called")

    def _call(self, node: ast.Call, state: State, *, is_waited: bool) -> State:
        if words_of(node.func) == ["failpoint"]:
            return self._point(node, state)
        kind = self._program.kind(self._found, node)
        name = ast.unparse(node.func)
        is_checked = not self._found.module.path.startswith(effects.ONLY_LOOKS)
        if kind is None and is_checked and (is_waited or self._is_on_a_store(node)):
            self._problem(node, f"{name} is in no table of tests/drills/effects.py")
        if kind == "commit":
            self._problem(node, f"{name} must be the head of an `async with`")
        if kind == "effect":
            return self._effect(node, name, state)
        return state._replace(is_dirty=True) if kind == "walked effect" else state

    def _is_on_a_store(self, node: ast.Call) -> bool:
        words = words_of(node.func)
        stores = effects.REDIS | effects.POSTGRES | set(self._found.module.queries)
        is_on_one = words[-2:-1] and words[-2] in {name.lstrip("_") for name in stores}
        return bool(is_on_one or (words[-1:] and words[-1] in effects.TELLING))

    def _effect(self, node: ast.AST, name: str, state: State) -> State:
        self._ends(state, f"{name} in line {getattr(node, 'lineno', 0)}")
        return State(frozenset({f"{self._at(node)}: {name}"}), is_dirty=True, last=name)

    def _point(self, node: ast.Call, state: State) -> State:
        name = node.args[0]
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str) or len(node.args) != 1:
            self._problem(node, "the name of a fail point is a literal")
            return state
        self.points[Point(name.value, self._at(node), state.last)] = None
        return state._replace(pending=frozenset())


def _join(one: State | None, other: State | None) -> State | None:
    return other if one is None else one.joined(other)


class Walked(NamedTuple):
    """What was found in a program."""

    points: list[Point]
    problems: list[str]


def walk(program: Program) -> Walked:
    """All fail points, and every place that lacks one."""
    points: dict[Point, None] = {}
    problems: dict[str, None] = {}
    called_back = _callbacks(program)
    for found in program.functions:
        if found.name in effects.TRANSPORTS.values() or found.name in effects.NOT_OF_A_PROCESS:
            continue
        walk_ = _Walk(program, found)
        walk_.run(called_back.get(found.name, State()))
        points |= walk_.points
        problems |= walk_.problems
    return Walked(sorted(points, key=lambda point: point.name), sorted(problems))


def _callbacks(program: Program) -> dict[str, State]:
    """Functions that are called once an effect's answer has come: for them it has just happened."""
    found_at: dict[str, State] = {}
    for found in program.functions:
        sent = [call for call in calls_of(found.node) if program.kind(found, call) == "effect"]
        if not sent:
            continue
        for call in calls_of(found.node):
            if words_of(call.func)[-1:] != ["add_done_callback"]:
                continue
            for node in ast.walk(call):
                if isinstance(node, ast.Attribute) and found.owner is not None:
                    name = program.method(found.owner, node.attr)
                    if name is not None:
                        effect = ast.unparse(sent[-1].func)
                        at = f"{found.module.path}:{sent[-1].lineno}: the answer to {effect}"
                        found_at[name] = State(frozenset({at}), last=f"{effect}, answered")
    return found_at
