"""Fail points: the places between two effects at which a drill may end or freeze the process.

Between any two things that this process does to a store, or says to somebody, it may die. `failpoint` stands
in each of these gaps, and a test finds the gaps that have none. Nothing happens there unless one of them is
armed (RUSH_FAILPOINT), which only development allows.
"""

import os
import signal

import msgspec

from engine.settings import SettingsError

ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
FORM = f"NAME:NUMBER:{'|'.join(ACTIONS)}:FILE"


class _Armed(msgspec.Struct):
    """The one place at which this process strikes itself."""

    name: str
    countdown: int
    """How many times more it has to be reached."""
    blow: signal.Signals
    file: str

    def reached(self, name: str) -> None:
        """Count, and strike when it is time."""
        if name != self.name:
            return
        self.countdown -= 1
        if self.countdown == 0 and self._is_first():
            os.kill(os.getpid(), self.blow)

    def _is_first(self) -> bool:
        """Leave word that it struck; False where another process, or this one in an earlier life, did."""
        try:
            os.close(os.open(self.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True


_armed: _Armed | None = None


def failpoint(name: str) -> None:
    """The process may die here. `name` is `<file stem>.<what has just been done>`, a literal, and unique."""
    if _armed is not None:
        _armed.reached(name)


def arm(text: str) -> None:
    """Strike where `text` (FORM) says: at the NUMBER-th time that NAME is reached in this process, once FILE
    could be created; "" disarms. Raises SettingsError for any other text."""
    global _armed  # noqa: PLW0603 — one check of a global is all that a fail point may cost
    _armed = _parse(text) if text else None


def _parse(text: str) -> _Armed:
    name, _, rest = text.partition(":")
    number, _, rest = rest.partition(":")
    action, _, file = rest.partition(":")
    if not (name and file and action in ACTIONS and number.isdecimal() and int(number)):
        raise SettingsError(f"RUSH_FAILPOINT must be {FORM} (it is {text!r})")
    return _Armed(name, int(number), ACTIONS[action], file)
