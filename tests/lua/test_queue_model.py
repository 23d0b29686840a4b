"""The waiting room does what its plain model does; with a fault planted, that is noticed."""

from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from engine.scripts import Scripts
from tests.lua.cellkit import Backend
from tests.lua.mutations import Mutation, planted
from tests.lua.queue_machine import QueueMachine
from tests.lua.queue_mutations import MUTATIONS

OFTEN = 6
"""So many of the planted faults are looked for in every run, the others in the slow one."""
UNHURRIED = settings(deadline=None, suppress_health_check=list(HealthCheck))
SEARCH = settings(
    UNHURRIED,
    max_examples=2_000,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)


def run(backend: Backend, how: settings) -> None:
    """Let the machine run on these scripts."""
    run_state_machine_as_test(type("Machine", (QueueMachine,), {"backend": backend}), settings=how)


@pytest.mark.timeout(240)
def test_the_waiting_room_does_what_its_model_does(backend: Backend) -> None:
    run(backend, settings(UNHURRIED, max_examples=30 if backend.is_real else 12, stateful_step_count=40))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_waiting_room_does_what_its_model_does_for_long(real_backend: Backend) -> None:
    run(real_backend, settings(UNHURRIED, max_examples=600, stateful_step_count=60))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(mutation, id=mutation.name, marks=[pytest.mark.slow] * (number >= OFTEN))
        for number, mutation in enumerate(MUTATIONS)
    ],
)
def test_a_fault_in_the_waiting_room_is_found(
    mutation: Mutation, real_backend: Backend, tmp_path: Path
) -> None:
    backend = Backend(real_backend.client, Scripts(planted(mutation, tmp_path)))
    with pytest.raises((AssertionError, redis.ResponseError)):
        run(backend, SEARCH)
