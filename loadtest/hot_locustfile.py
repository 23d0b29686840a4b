"""Locust's side of the hot path: a user is a connection that reserves, reserves and reserves.

    locust --locustfile loadtest/hot_locustfile.py --hot-plan PLAN

All that Locust offers works: its page, CSV, HTML, `--processes`. `rush bench` writes the plans.
"""

from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-untyped]
from gevent.event import AsyncResult  # type: ignore[import-untyped]
from locust import LoadTestShape, User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtest.finish import Finish, process_of
from loadtest.hot_crowd import HotCrowd
from loadtest.hot_plan import HotPlan, load_hot_plan
from loadtest.hot_stats import LocustReport


class HotUser(User):
    """One connection. It holds no greenlet up: see loadtest/hot_crowd.py."""

    @task
    def press(self) -> None:
        """Hold a connection until it breaks, then another one; until the phase is over."""
        crowd = _state.crowd(self.environment)
        if crowd.is_over:
            gevent.sleep(1)
        else:
            crowd.hold_connection()


class HotShape(LoadTestShape):
    """All connections at once, until every process has written down what it saw."""

    def tick(self) -> tuple[int, float] | None:
        """How many users Locust is to have now; None ends the run."""
        plan = _state.plan
        seconds: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if _state.finish.count >= plan.processes or seconds > plan.bound_s:
            return None
        users = plan.connections * plan.processes
        return users, float(users)


class _State:
    """Of this process."""

    plan: HotPlan

    def __init__(self) -> None:
        self.finish = Finish()
        self._crowd: AsyncResult[HotCrowd] | None = None

    def crowd(self, environment: Environment) -> HotCrowd:
        """The process's crowd; the first user makes it, and with it all requests, while others wait."""
        if self._crowd is None:
            self._crowd = AsyncResult()
            gevent.spawn(self._run, self._crowd, environment)
        crowd: HotCrowd = self._crowd.get()
        return crowd

    def _run(self, made: "AsyncResult[HotCrowd]", environment: Environment) -> None:
        try:
            crowd = HotCrowd(self.plan, process_of(environment), LocustReport(environment))
            made.set(crowd)
            crowd.run()
        finally:
            self.finish.tell(environment)


_state = _State()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_option(parser: LocustArgumentParser) -> None:
    parser.add_argument("--hot-plan", required=True, include_in_web_ui=False, help="made by rush bench")


@events.init.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Environment, runner: Any = None, **_: Any) -> None:
    assert environment.parsed_options is not None
    _state.plan = load_hot_plan(Path(environment.parsed_options.hot_plan))
    _state.finish.listen(runner)
