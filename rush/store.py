"""What the embedded stores have in common: ports, secrets, and how their processes are started."""

import contextlib
import os
import random
import secrets
import socket
import sys
from pathlib import Path
from typing import Protocol

_LAUNCHER = Path(__file__).with_name("launch.py")
_PORT_FIRST = 20_000
_EPHEMERAL_FIRST = 32_768
_PORT_TRIES_MAX = 200
BACKGROUND_NICE = 5
"""A third of the others' share of a processor that everybody wants: enough to keep up with a rush."""


class StoreError(Exception):
    """A store cannot be set up; the message says why and what to do."""


class Store(Protocol):
    """A server that Ticket Rush runs itself. `prepare` first, then `command` is ready to be started."""

    name: str
    port: int

    @property
    def url(self) -> str:
        """Where clients reach it, password included."""

    @property
    def stop_signal(self) -> str:
        """The signal that makes it close its files in order."""

    def prepare(self) -> None:
        """Make the data folder, configuration and password; raises StoreError. May block."""

    def command(self) -> list[str]:
        """The command line, to be started by this very process."""

    def answers(self) -> bool:
        """Whether it takes commands now. Blocks for half a second at most."""


def _ephemeral_first() -> int:
    with contextlib.suppress(OSError, ValueError):
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
        return int(text.split()[0])
    return _EPHEMERAL_FIRST


def is_port_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on this port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A free port on loopback that the system never gives to an outgoing connection.

    One from the ephemeral range would be a trap: while the server on it restarts, a client that keeps
    knocking is given that very port for its own end sooner or later, and the server cannot bind it any more.
    """
    last = _ephemeral_first() - 1
    if last - _PORT_FIRST < _PORT_TRIES_MAX:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])
    for _ in range(_PORT_TRIES_MAX):
        port = random.randint(_PORT_FIRST, last)  # noqa: S311 - not a secret
        if is_port_free(port):
            return port
    raise StoreError(f"no free port found on 127.0.0.1 between {_PORT_FIRST} and {last}")


def remembered_port(path: Path) -> int:
    """The port written in `path`, where it is still free; else a new one, written there."""
    with contextlib.suppress(OSError, ValueError):
        port = int(path.read_text(encoding="ascii"))
        if is_port_free(port):
            return port
    port = free_port()
    path.write_text(f"{port}\n", encoding="ascii")
    return port


def remembered_secret(path: Path) -> str:
    """The secret kept in `path` (mode 600), made at the first call: 64 hexadecimal digits."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        text = path.read_text(encoding="ascii").strip()
        if text:
            return text
        handle = os.open(path, os.O_TRUNC | os.O_WRONLY)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        text = secrets.token_hex(32)
        file.write(text + "\n")
    return text


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)


def memory_bytes() -> int:
    """How much memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def launched(
    command: list[str],
    *,
    death_signal: str = "SIGKILL",
    lock: Path | None = None,
    leave_root: Path | None = None,
    is_background: bool = False,
) -> list[str]:
    """The command line that starts `command` so that it ends with this process (see launch.py).

    In the background it gets the processor when those that buyers wait for leave it some.
    """
    options = ["--parent", str(os.getpid()), "--death-signal", death_signal]
    if lock is not None:
        options += ["--lock", str(lock)]
    if leave_root is not None:
        options += ["--leave-root", str(leave_root)]
    if is_background:
        options += ["--nice", str(BACKGROUND_NICE)]
    return [sys.executable, "-I", "-S", str(_LAUNCHER), *options, "--", *command]
