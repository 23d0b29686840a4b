"""Cells on both backends: the real server, and fakeredis."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import redis

from tests.lua.cellkit import Backend, Cell, fake_backend
from tests.lua.queuekit import QueueCell


@pytest.fixture
def real_backend(redis_url: str) -> Iterator[Backend]:
    """The scripts on the shared real server, which is empty otherwise."""
    with redis.Redis.from_url(redis_url) as client:
        yield Backend(client)


@pytest.fixture(scope="session")
def shared_fake_backend() -> Backend:
    """The scripts on fakeredis."""
    return fake_backend()


@pytest.fixture(params=["real", "fake"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each test runs on both."""
    chosen: Backend = request.getfixturevalue(
        f"{'shared_fake' if request.param == 'fake' else 'real'}_backend"
    )
    return chosen


@pytest.fixture
def new_cell(backend: Backend) -> Callable[..., Cell]:
    """`new_cell([Zone(...), ...], **fields of sale)`."""
    return partial(Cell, backend)


@pytest.fixture
def new_queue(backend: Backend) -> Callable[..., QueueCell]:
    """`new_queue([Zone(...), ...], **fields of queue_...)`."""
    return partial(QueueCell, backend)
