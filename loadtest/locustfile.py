"""The rush as Locust runs it: one spawner for each process, and a greenlet for each person.

Locust's own users are a closed loop: a slow system meets fewer of them. Here a person arrives when the
schedule says so. So Locust has one user in each process, the crowd; its requests are Locust's requests
all the same, with its statistics, files and page.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import gevent  # type: ignore[import-untyped]
import gevent.pool  # type: ignore[import-untyped]
from geventhttpclient.client import HTTPClient
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
from locust import LoadTestShape, User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from engine.tokens import TokenSigner
from loadtest.arrivals import own_arrivals
from loadtest.finish import Finish, process_of
from loadtest.person import Person, Reply
from loadtest.plan import Plan, load_plan
from loadtest.queued_person import QueuedPerson
from loadtest.told import NO_ANSWER, Answer, Beat, End, ToldWriter, told_path

STOP_FILE = "stop"
"""The parent asks for an orderly end by making this file."""
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 15.0
TOKEN_TTL_S = 3600
BEAT_S = 0.25
SPAWNS_IN_A_ROW_MAX = 50
LAST_ANSWERS_S = 20.0
"""How long those who are under way at the end may take."""
WANTED_HEADERS = ("x-ledger-seq", "idempotent-replayed", "retry-after")

_NO_REPLY = (OSError, gevent.Timeout, HTTPConnectionClosed, HTTPParseError)


class Crowd:
    """The people of one process."""

    def __init__(self, environment: Environment, plan: Plan, process: int) -> None:
        self.plan = plan
        self.is_over = False
        self._environment = environment
        self._process = process
        self._arrived = 0
        self._signer = TokenSigner(plan.jwt_secret)
        self._told = ToldWriter(told_path(Path(plan.folder), process))
        self._people = gevent.pool.Pool(plan.in_flight_max)
        self._client = HTTPClient(
            plan.host,
            plan.port,
            concurrency=plan.connections,
            connection_timeout=CONNECT_TIMEOUT_S,
            network_timeout=ANSWER_TIMEOUT_S,
        )

    def run(self) -> None:
        """Let everybody arrive and be done, within the plan's bound; then close the file."""
        beats = gevent.spawn(self._beat)
        try:
            self._arrive()
            self._people.join(timeout=max(0.0, self._deadline_s - self.now_s()))
            self.is_over = True
            self._people.join(timeout=LAST_ANSWERS_S)
        finally:
            self.is_over = True
            self._people.kill(timeout=5)
            beats.kill()
            self._told.write(End(self._process, self._arrived))
            self._told.close()
            self._client.close()

    def _arrive(self) -> None:
        plan = self.plan
        start_s = self.now_s()
        self._deadline_s = start_s + plan.bound_s
        arrivals = own_arrivals(plan.people, plan.rate_per_s, plan.seed, self._process, plan.processes)
        for spawned, (number, at_s) in enumerate(arrivals):
            due_s = start_s + at_s
            wait_s = due_s - self.now_s()
            if wait_s > 0:
                gevent.sleep(wait_s)
            elif spawned % SPAWNS_IN_A_ROW_MAX == 0:
                gevent.sleep(0)
            if self.is_over or self.now_s() > self._deadline_s:
                return
            self._arrived += 1
            self._people.spawn(self._live, number, due_s)

    def _live(self, number: int, due_s: float) -> None:
        kind = Person if self.plan.queue is None else QueuedPerson
        kind(self, number, due_s).live()

    def _beat(self) -> None:
        stop = Path(self.plan.folder) / STOP_FILE
        while True:
            gevent.sleep(BEAT_S)
            self._told.write(Beat(self._process, self.now_s(), self._arrived, len(self._people)))
            self._told.flush()
            if stop.exists():
                self.is_over = True
                self._deadline_s = self.now_s()

    # What a person needs of the world.

    def now_s(self) -> float:
        """The monotonic clock, the same for all processes of the machine."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let other people act meanwhile."""
        gevent.sleep(seconds)

    def at_once(self, act: Callable[[], None]) -> Callable[[], None]:
        """A greenlet for what the person does with the other hand."""
        wait: Callable[[], None] = gevent.spawn(act).join
        return wait

    def token(self, user_id: UUID) -> str:
        """An access token for a buyer."""
        return self._signer.sign(user_id, "user", None, ttl_s=TOKEN_TTL_S)

    def send(self, path: str, body: bytes, headers: dict[str, str], method: str = "POST") -> Reply:
        """Ask on a free connection; waiting for one counts, for the buyer waits too."""
        sent_s = self.now_s()
        try:
            response = self._client.request(method, path, body, headers)
            content = bytes(response.read())
        except _NO_REPLY as error:
            done_s = self.now_s()
            self._fire(path, sent_s, done_s, NO_ANSWER, 0, error)
            return Reply(NO_ANSWER, {}, b"", sent_s, done_s)
        done_s = self.now_s()
        status = int(response.status_code)
        self._fire(path, sent_s, done_s, status, len(content), None)
        found = {name: str(response.get(name)) for name in WANTED_HEADERS if name in response}
        return Reply(status, found, content, sent_s, done_s)

    def _fire(
        self, path: str, sent_s: float, done_s: float, status: int, length: int, error: BaseException | None
    ) -> None:
        """Tell Locust. A refusal is an answer like another and stands under its own name."""
        verb = path.rpartition("/")[2]
        name = verb if status in (200, 201) else f"{verb}: {status or 'no answer'}"
        failure = error
        if failure is None and status >= 500:
            failure = RuntimeError(f"{verb} was answered {status}")
        self._environment.events.request.fire(  # type: ignore[no-untyped-call]
            request_type="POST",
            name=name,
            response_time=(done_s - sent_s) * 1000,
            response_length=length,
            response=None,
            context={},
            exception=failure,
            start_time=time.time() - (done_s - sent_s),
            url=path,
        )

    def tell(self, answer: Answer) -> None:
        """Into the file."""
        self._told.write(answer)


class CrowdUser(User):
    """Locust's one user of a process: it runs the crowd, once."""

    @task
    def rush(self) -> None:
        """Everybody arrives, presses and leaves."""
        plan = _state.plan
        if not _state.is_started:
            _state.is_started = True
            Crowd(self.environment, plan, process_of(self.environment)).run()
            _state.finish.tell(self.environment)
        gevent.sleep(1)


class RushShape(LoadTestShape):
    """One crowd for each process, until all of them are done."""

    def tick(self) -> tuple[int, float] | None:
        """How many users Locust is to have now; None ends the run."""
        plan = _state.plan
        seconds: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if _state.finish.count >= plan.processes or seconds > plan.bound_s + 2 * LAST_ANSWERS_S:
            return None
        return plan.processes, float(plan.processes)


class _State:
    """Of this process."""

    plan: Plan
    is_started = False

    def __init__(self) -> None:
        self.finish = Finish()


_state = _State()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_option(parser: LocustArgumentParser) -> None:
    parser.add_argument("--plan", required=True, include_in_web_ui=False, help="made by rush load")


@events.init.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Environment, runner: Any = None, **_: Any) -> None:
    assert environment.parsed_options is not None
    _state.plan = load_plan(Path(environment.parsed_options.plan))
    _state.finish.listen(runner)
    assert isinstance(runner, LocalRunner | MasterRunner | WorkerRunner)
