"""The data folder of `rush up`: who may use it, and the secrets that live in it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

METRICS_FOLDER = "metrics"


class InUseError(Exception):
    """Another `rush up` runs on this data; the message names its process."""


@contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; raises InUseError when another one does.

    The kernel gives the lock back at any death, so nothing stale is ever left.
    """
    # Others may pass through but not list: where Postgres must run as another user, it passes.
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    handle = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
            raise InUseError(f"it is running already, as process {holder}, on the data in {folder}") from None
        os.truncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def fresh_metrics_folder(folder: Path) -> Path:
    """An empty folder where the processes of this run keep the values of their metrics."""
    metrics = folder.absolute() / METRICS_FOLDER
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir(parents=True)
    return metrics


def forget_metrics_of(metrics: Path, pid: int) -> None:
    """Drop the gauges of a process that died (what prometheus_client.multiprocess.mark_process_dead does)."""
    for path in metrics.glob(f"gauge_live*_{pid}.db"):
        path.unlink(missing_ok=True)
