"""Starts a server that must not outlive its parent: `python launch.py [options] -- command…`.

Run by its path, with the standard library alone, so that it costs milliseconds; it replaces itself by the
command. What it sets up survives that: the signal at the parent's death, the lock on the data folder (which
the kernel frees when the last process that holds it is gone), and a user that Postgres accepts.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import pwd
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

EXIT_CANNOT_START = 3
LOCK_POLL_S = 0.05
_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
_ID_INSIDE = 1000


def _refuse(message: str) -> None:
    sys.stderr.write(message + "\n")
    raise SystemExit(EXIT_CANNOT_START)


def _libc_call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _libc_call("unshare", _CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{_ID_INSIDE} {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{_ID_INSIDE} {gid} 1", encoding="ascii")


def _works_in_a_child(attempt: Callable[[], None]) -> bool:
    """Whether `attempt` succeeds: tried in a fork, since half of it done could not be taken back."""
    child = os.fork()
    if child == 0:
        try:
            attempt()
        except OSError:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return status == 0


def _give_folder_to(folder: Path, uid: int, gid: int) -> None:
    if folder.stat().st_uid == uid:
        return
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(os.path.join(parent, name), uid, gid, follow_symlinks=False)
    os.chown(folder, uid, gid)


def _leave_root(folder: Path) -> None:
    """Become somebody whom Postgres accepts: it refuses to run as root, and root in a container is usual.

    In a user namespace of its own root is shown as an ordinary user and every file stays readable. Where
    namespaces are not allowed, become the owner of the folder, or nobody.
    """
    if os.geteuid() != 0:
        return
    if sys.platform == "linux" and _works_in_a_child(_enter_user_namespace):
        _give_folder_to(folder, 0, 0)
        _enter_user_namespace()
        return
    owner = folder.stat().st_uid or pwd.getpwnam("nobody").pw_uid
    group = pwd.getpwuid(owner).pw_gid
    _give_folder_to(folder, owner, group)
    os.setgroups([])
    os.setgid(group)
    os.setuid(owner)
    if not os.access(folder, os.X_OK):
        _refuse(
            f"Postgres does not run as root, and user {pwd.getpwuid(owner).pw_name} may not enter {folder}: "
            "run as an ordinary user, or set RUSH_DATABASE_URL to a server of your own"
        )


def _take_lock(path: Path, wait_s: float) -> None:
    """Hold `path` for as long as the command lives; give a process that is just stopping time to be gone."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(LOCK_POLL_S)
                continue
            holder = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
            _refuse(f"{path.parent} is in use by process {holder}: stop that one first (kill {holder})")
    os.truncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    os.set_inheritable(handle, True)


def _die_with(parent: int, number: int) -> None:
    if sys.platform == "linux":
        _libc_call("prctl", _PR_SET_PDEATHSIG, number)
    # The parent may have died before the line above.
    if os.getppid() != parent:
        raise SystemExit(EXIT_CANNOT_START)


def _let_others_go_first(nice: int) -> None:
    os.nice(nice)
    # Where Linux shares the processor out by sessions first, a session of its own has a niceness of its own.
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(nice), encoding="ascii")


def main() -> None:
    """Parse, set up, become the command. Exit status 3 and one line on stderr when that cannot be."""
    parser = argparse.ArgumentParser(prog="launch", description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="process whose death ends the command")
    parser.add_argument("--death-signal", default="SIGKILL", help="what the command gets at that moment")
    parser.add_argument("--lock", type=Path, help="file that only one running command may hold")
    parser.add_argument("--lock-wait-s", type=float, default=10.0)
    parser.add_argument("--leave-root", type=Path, metavar="FOLDER", help="do not run as root; own FOLDER")
    parser.add_argument("--nice", type=int, default=0, help="let others go first, by so much (0 to 19)")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    try:
        if arguments.lock:
            _take_lock(arguments.lock, arguments.lock_wait_s)
        # Before a change of user, after which the session's niceness would be somebody else's.
        if arguments.nice:
            _let_others_go_first(arguments.nice)
        if arguments.leave_root:
            _leave_root(arguments.leave_root)
        # Last, for a change of user would clear it.
        _die_with(arguments.parent, signal.Signals[arguments.death_signal])
        os.execvp(arguments.command[0], arguments.command)
    except OSError as error:
        _refuse(f"cannot start {arguments.command[0]}: {error}")


if __name__ == "__main__":
    main()
