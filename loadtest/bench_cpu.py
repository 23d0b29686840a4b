"""Processor time of process groups, by the operating system's own accounting (/proc)."""

import os
from pathlib import Path
from typing import NamedTuple

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
GROUPS = ("gateway", "redis", "relay", "workers", "postgres", "supervisor")
_PROC = Path("/proc")


class Used(NamedTuple):
    """Seconds of processor time."""

    user: float = 0.0
    system: float = 0.0

    def plus(self, other: "Used") -> "Used":
        """Both together."""
        return Used(self.user + other.user, self.system + other.system)

    def since(self, before: "Used") -> "Used":
        """What came to it."""
        return Used(self.user - before.user, self.system - before.system)

    @property
    def all(self) -> float:
        """In the program and in the kernel."""
        return self.user + self.system


class Books:
    """Processor time by group, at one moment."""

    def __init__(self, used: dict[str, Used], pids: frozenset[int]) -> None:
        self.used = used
        self.pids = pids
        """The supervisor's children: another set means that one of them was started again."""

    def since(self, before: "Books") -> dict[str, Used]:
        """What was used in between, by group."""
        return {name: self.used[name].since(before.used[name]) for name in GROUPS}


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third on: the second is a name that may hold anything."""
    return (
        (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    )


def cpu(pid: int) -> Used:
    """User and system time of a process and of all children that it has waited for."""
    try:
        user, system, children_user, children_system = (int(ticks) for ticks in _stat(pid)[11:15])
    except OSError:
        return Used()
    return Used((user + children_user) / TICKS_PER_S, (system + children_system) / TICKS_PER_S)


def children_by_parent() -> dict[int, list[int]]:
    """All processes of the machine, by who started them."""
    found: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                found.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
            except (OSError, IndexError):
                continue
    return found


def tree_cpu(pid: int, children: dict[int, list[int]]) -> Used:
    """The same of a process, and of all that live below it."""
    used = cpu(pid)
    for child in children.get(pid, []):
        used = used.plus(tree_cpu(child, children))
    return used


def group_of(words: list[str]) -> str:
    """Which group a child of `rush up` is of, by its command line."""
    program = Path(words[0]).name if words else ""
    if "--as" in words:
        name = words[words.index("--as") + 1]
        return "gateway" if name.startswith("gateway") else name
    if program.startswith("postgres"):
        return "postgres"
    return "redis" if program.startswith(("redis", "valkey")) else "supervisor"


def stack_books(supervisor: int) -> Books:
    """The groups of one `rush up`."""
    children = children_by_parent()
    used = dict.fromkeys(GROUPS, Used())
    used["supervisor"] = cpu(supervisor)
    for child in children.get(supervisor, []):
        try:
            line = (_PROC / str(child) / "cmdline").read_bytes()
        except OSError:
            continue
        group = group_of(line.decode(errors="replace").split("\0"))
        used[group] = used[group].plus(tree_cpu(child, children))
    return Books(used, frozenset(children.get(supervisor, [])))
