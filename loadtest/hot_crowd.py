"""The load on the hot path: one process, some connections, as little work for each request as possible.

A connection is a Locust user, with a greenlet of its own. But between request and answer no greenlet is
switched to: what arrives is handled in the event loop's callback, which also sends the next request. What
was answered is told to Locust ten times a second.
"""

import gc
import resource
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import gevent  # type: ignore[import-untyped]
import gevent.event  # type: ignore[import-untyped]
import msgspec

from loadtest.arrivals import arrival_times
from loadtest.hot_connection import Broken, HotConnection
from loadtest.hot_plan import ID_BYTES, HotPlan, HotResult, ids_path, latencies_path, result_path
from loadtest.hot_requests import Requests, make_requests, process_seed

FLUSH_S = 0.1
PACE_S = 0.001
CONNECT_ALL_S = 15.0
ANSWER_TIMEOUT_S = 15.0
RECONNECT_PAUSE_S = 0.1
FAILURES_TOLD_MAX = 1_000
"""Of each kind, to Locust; the others are counted alone."""
NAME = "reserve"
_ID_START = b'"id":"'
_CODE_START = b'"code":"'


class Report(Protocol):
    """Who is told what was answered: Locust, in a run."""

    def answered(self, name: str, latencies_ms: Sequence[float], length: int) -> None:
        """Good answers of one name, and the sum of their lengths in bytes."""

    def failed(self, name: str, latency_ms: float, reason: str) -> None:
        """A request whose outcome is not what it must be, or not known."""


class HotCrowd:
    """All connections of one process, and what they were answered."""

    def __init__(self, plan: HotPlan, process: int, report: Report) -> None:
        self._plan = plan
        self._process = process
        self._report = report
        self._requests: Requests = make_requests(plan, process, gevent.sleep)
        seed = process_seed(plan.seed, process)
        is_open = plan.mode == "open"
        count = int(plan.rate_per_s * plan.seconds) if is_open else 0
        self._due_s = array("d", arrival_times(count, plan.rate_per_s, seed)) if is_open else array("d")
        self._limit = min(count, len(self._requests)) if is_open else len(self._requests)
        if plan.is_endless:
            self._limit = count if is_open else 1 << 62
        self._next = 0
        self._replays_sent = 0
        self._idle: list[HotConnection] = []
        self._alive: set[HotConnection] = set()
        self._is_running = False
        self.is_over = False
        self._start_s = self._end_s = 0.0
        self._last_s = 0.0
        self._late_max_s = 0.0
        self._good: dict[str, list[float]] = {}
        """Milliseconds by name, since the last flush."""
        self._good_bytes: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._latencies_ms: array[float] = array("d")
        self._ids = bytearray()
        self.done = gevent.event.Event()

    # One connection, which is one Locust user.

    def hold_connection(self) -> None:
        """Open a connection, and return when it is closed or the phase is over."""
        try:
            connection = HotConnection(
                self._plan.host, self._plan.port, self, sees_replays=self._plan.replays is not None
            )
        except (OSError, gevent.Timeout) as error:
            self._failed("no connection", 0.0, str(error))
            gevent.sleep(RECONNECT_PAUSE_S)
            return
        self._alive.add(connection)
        try:
            self._take_up(connection)
            connection.closed.wait()
        finally:
            connection.close()
            self._alive.discard(connection)

    def _take_up(self, connection: HotConnection) -> None:
        if self._is_running and self._plan.mode == "closed":
            self._send_next(connection, time.perf_counter())
        else:
            self._idle.append(connection)

    # The whole phase.

    def run(self) -> None:
        """Wait for all connections, load for as long as the plan says, write down what was seen."""
        deadline_s = time.perf_counter() + CONNECT_ALL_S
        while len(self._alive) < self._plan.connections and time.perf_counter() < deadline_s:
            gevent.sleep(0.01)
        # What lives now stays, so the collector would only walk through it again and again.
        gc.collect()
        gc.freeze()
        gc.disable()
        before_s = _cpu_s()
        helpers = [gevent.spawn(self._flush_often), gevent.spawn(self._time_out)]
        try:
            self._load()
        finally:
            gevent.killall(helpers)
            self._flush()
            cpu_s = _cpu_s() - before_s
            self.is_over = True
            gc.enable()
            for connection in list(self._alive):
                connection.close()
            self._write(cpu_s)
            self.done.set()

    def _load(self) -> None:
        self._start_s = self._last_s = time.perf_counter()
        self._end_s = self._start_s + self._plan.seconds
        self._is_running = True
        if self._plan.mode == "open":
            self._pace()
        else:
            idle, self._idle = self._idle, []
            for connection in idle:
                self._send_next(connection, time.perf_counter())
            while time.perf_counter() < self._end_s and self._next < self._limit:
                gevent.sleep(FLUSH_S)
        deadline_s = time.perf_counter() + ANSWER_TIMEOUT_S
        while any(each.number >= 0 for each in self._alive) and time.perf_counter() < deadline_s:
            gevent.sleep(PACE_S)
        self._is_running = False
        for connection in list(self._alive):
            if connection.number >= 0:
                connection.break_off(Broken.TIMED_OUT, "no answer came")

    def _pace(self) -> None:
        """Send what is due on idle connections; who finds none waits for an answer, and is late."""
        due_s, start_s = self._due_s, self._start_s
        while self._next < self._limit:
            now_s = time.perf_counter()
            if now_s > self._end_s + ANSWER_TIMEOUT_S:
                self._errors["never sent"] += self._limit - self._next
                return
            while self._idle and self._next < self._limit and start_s + due_s[self._next] <= now_s:
                self._send_next(self._idle.pop(), now_s)
            gevent.sleep(PACE_S)

    def _send_next(self, connection: HotConnection, now_s: float) -> None:
        """The next request, if one is due and the phase is not over."""
        number = self._next
        if connection.closed.is_set():
            return
        if number >= self._limit:
            self._idle.append(connection)
            return
        if self._due_s:
            due_s = self._start_s + self._due_s[number]
            if due_s > now_s:
                self._idle.append(connection)
                return
            self._late_max_s = max(self._late_max_s, now_s - due_s)
        elif now_s >= self._end_s:
            self._idle.append(connection)
            return
        else:
            due_s = now_s
        self._next = number + 1
        requests = self._requests
        if self._plan.is_endless:
            number %= len(requests)
        elif self._plan.replays is not None and requests.is_replay(number):
            self._replays_sent += 1
        connection.send(requests[number], number, due_s)

    # What connections tell.

    def answered(
        self, connection: HotConnection, number: int, due_s: float, status: int, body: bytes, is_replay: bool
    ) -> None:
        """A whole answer."""
        now_s = self._last_s = time.perf_counter()
        latency_ms = (now_s - due_s) * 1000
        if status == 201 and not is_replay:
            key = NAME
            start = body.find(_ID_START) + len(_ID_START)
            self._ids += body[start : start + ID_BYTES]
        else:
            key = _spell(status, body, is_replay)
        is_right = status in self._plan.accepts
        if self._plan.replays is not None and self._requests.is_replay(number) != is_replay:
            is_right = False
        self._answers[key] += 1
        if is_right:
            self._latencies_ms.append(latency_ms)
            good = self._good.get(key)
            if good is None:
                good = self._good[key] = []
            good.append(latency_ms)
            self._good_bytes[key] += len(body)
        else:
            self._failed(key, latency_ms, f"was answered {key}")
        self._send_next(connection, now_s)

    def broke(self, connection: HotConnection, due_s: float | None, why: Broken, detail: str) -> None:
        """A connection is gone; `due_s` is that of the request it had, whose outcome is not known now."""
        self._alive.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if due_s is None and why in (Broken.NOT_HTTP, Broken.UNASKED):
            self._failed(why.value, 0.0, detail)
        if due_s is not None:
            self._failed(f"unknown: {why.value}", (time.perf_counter() - due_s) * 1000, detail)

    def _failed(self, kind: str, latency_ms: float, detail: str) -> None:
        if self.is_over:
            return
        self._errors[kind] += 1
        if self._errors[kind] <= FAILURES_TOLD_MAX:
            # Not here: this may be a callback of the event loop, where nothing may wait.
            gevent.spawn(self._report.failed, kind, latency_ms, detail)

    # Now and then.

    def _flush_often(self) -> None:
        while True:
            gevent.sleep(FLUSH_S)
            self._flush()

    def _flush(self) -> None:
        good, self._good = self._good, {}
        lengths, self._good_bytes = self._good_bytes, Counter()
        for name, latencies_ms in good.items():
            self._report.answered(name, latencies_ms, lengths[name])

    def _time_out(self) -> None:
        while True:
            gevent.sleep(1)
            before_s = time.perf_counter() - ANSWER_TIMEOUT_S
            for connection in list(self._alive):
                if connection.number >= 0 and connection.sent_s < before_s:
                    connection.break_off(Broken.TIMED_OUT, f"no answer in {ANSWER_TIMEOUT_S:.0f} s")

    def _write(self, cpu_s: float) -> None:
        folder = Path(self._plan.folder)
        latencies_path(folder, self._process).write_bytes(self._latencies_ms.tobytes())
        ids_path(folder, self._process).write_bytes(self._ids)
        result = HotResult(
            process=self._process,
            seconds=self._last_s - self._start_s,
            sent=self._next,
            answers=dict(self._answers),
            accepted=len(self._ids) // ID_BYTES,
            replayed=self._answers[f"{NAME}: replayed"],
            replays_sent=self._replays_sent,
            errors=dict(self._errors),
            late_max_ms=self._late_max_s * 1000,
            cpu_s=cpu_s,
            is_used_up=self._plan.mode == "closed" and self._next >= self._limit,
        )
        path = result_path(folder, self._process)
        aside = path.with_suffix(".new")
        aside.write_bytes(msgspec.json.encode(result))
        aside.rename(path)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _spell(status: int, body: bytes, is_replay: bool) -> str:
    """The name under which an answer is counted that is no new booking."""
    if is_replay:
        return f"{NAME}: replayed" if status == 201 else f"{NAME}: {status} replayed"
    start = body.find(_CODE_START)
    if start < 0:
        return f"{NAME}: {status}"
    start += len(_CODE_START)
    code = body[start : body.find(b'"', start)].decode("ascii", "replace")
    return f"{NAME}: {status} {code}"
