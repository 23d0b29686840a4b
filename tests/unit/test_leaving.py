"""A cell on its way to another node waits, and recovery of the others goes on."""

import pytest
from redis.exceptions import (
    AskError,
    ConnectionError,
    MovedError,
    NoScriptError,
    ResponseError,
    TryAgainError,
)

from engine.ids import CellId
from engine.lift import leaving

CELL = CellId(1, 0)


@pytest.mark.parametrize(
    "error",
    [
        AskError("7 127.0.0.1:7000"),
        MovedError("7 127.0.0.1:7000"),
        TryAgainError("Multiple keys request during rehashing of slot"),
        ResponseError("Script attempted to access a non local key in a cluster node script: 1, on @x:1."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_cell_that_is_being_moved_is_left_alone(error: Exception) -> None:
    with leaving(CELL):
        raise error


@pytest.mark.parametrize(
    "error",
    [NoScriptError("No matching script."), ResponseError("WRONGTYPE"), ConnectionError("reset")],
    ids=lambda error: type(error).__name__,
)
def test_whatever_else_happens_to_it_is_said(error: Exception) -> None:
    with pytest.raises(type(error)), leaving(CELL):
        raise error
