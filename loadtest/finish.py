"""How Locust learns that the crowds of all its processes are done."""

from typing import Any

from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

_MESSAGE = "crowd_done"


def process_of(environment: Environment) -> int:
    """The number of this process among those that press, from 0."""
    runner = environment.runner
    return runner.worker_index if isinstance(runner, WorkerRunner) else 0


class Finish:
    """Counts the crowds that are done, in the process that decides when the run ends."""

    def __init__(self) -> None:
        self.count = 0

    def listen(self, runner: Any) -> None:
        """Hear of those in other processes."""
        if isinstance(runner, MasterRunner):
            runner.register_message(_MESSAGE, self._one_more)

    def tell(self, environment: Environment) -> None:
        """This process's crowd is done."""
        if isinstance(environment.runner, WorkerRunner):
            environment.runner.send_message(_MESSAGE, None)
        else:
            self.count += 1

    def _one_more(self, environment: Environment, msg: Any) -> None:
        self.count += 1
