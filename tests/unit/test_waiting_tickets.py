"""Tickets and passes: what was altered, forged, or belongs to somebody else is not taken."""

import string
from uuid import UUID, uuid4

import pytest

from engine import ids
from engine.errors import Unauthorized
from engine.waiting.tickets import NUMBER_MAX, QueueSigner

SIGNER = QueueSigner("a secret of the tests, long enough")
EVENT, OTHER_EVENT = ids.new_event_id(), ids.new_event_id()
USER = UUID("6a1f4a3e-5d0b-4a56-9f4f-0a3ad1a7b6c5")
DIGITS = string.ascii_letters + string.digits + "-_"


@pytest.mark.parametrize("number", [1, 2, 1_000_000, NUMBER_MAX])
def test_a_ticket_says_who_has_which_number_in_which_queue(number: int) -> None:
    text = SIGNER.ticket(EVENT, USER, number)
    ticket = SIGNER.read_ticket(text)
    assert (ticket.event_id, ticket.user_id, ticket.number) == (EVENT, USER, number)
    assert ticket == SIGNER.read_ticket(text.encode())
    assert len(text) == 60
    assert set(text) <= set(DIGITS)


def test_the_same_person_gets_the_same_ticket_again() -> None:
    assert SIGNER.ticket(EVENT, USER, 7) == SIGNER.ticket(EVENT, USER, 7)


def test_each_altered_character_makes_a_ticket_and_a_pass_void() -> None:
    ticket = SIGNER.ticket(EVENT, USER, 7)
    queue_pass = SIGNER.queue_pass(EVENT, USER, 1_800_000_000_000)
    for i in range(len(ticket)):
        for digit in DIGITS:
            if digit != ticket[i]:
                with pytest.raises(Unauthorized):
                    SIGNER.read_ticket(ticket[:i] + digit + ticket[i + 1 :])
    for i in range(len(queue_pass)):
        for digit in DIGITS:
            if digit != queue_pass[i]:
                altered = queue_pass[:i] + digit + queue_pass[i + 1 :]
                assert SIGNER.pass_ms(altered, EVENT, USER) == "-"


@pytest.mark.parametrize("text", ["", "x", "ä" * 60, "=" * 60, "A" * 60, "+" * 60, " " * 60, "A" * 10_000])
def test_what_is_no_ticket_is_refused(text: str) -> None:
    with pytest.raises(Unauthorized):
        SIGNER.read_ticket(text)
    assert SIGNER.pass_ms(text, EVENT, USER) == "-"


def test_another_secret_makes_other_tickets_and_passes() -> None:
    other = QueueSigner("another secret of the tests, long enough")
    with pytest.raises(Unauthorized):
        other.read_ticket(SIGNER.ticket(EVENT, USER, 7))
    assert other.pass_ms(SIGNER.queue_pass(EVENT, USER, 1), EVENT, USER) == "-"


def test_a_pass_is_of_one_person_at_one_event() -> None:
    queue_pass = SIGNER.queue_pass(EVENT, USER, 1_800_000_000_000)
    assert SIGNER.pass_ms(queue_pass, EVENT, USER) == "1800000000000"
    assert SIGNER.pass_ms(queue_pass.encode(), EVENT, USER) == "1800000000000"
    assert SIGNER.pass_ms(queue_pass, OTHER_EVENT, USER) == "-"
    assert SIGNER.pass_ms(queue_pass, EVENT, uuid4()) == "-"
    assert len(queue_pass) == 32


def test_a_ticket_is_no_pass_and_a_pass_no_ticket() -> None:
    assert SIGNER.pass_ms(SIGNER.ticket(EVENT, USER, 7), EVENT, USER) == "-"
    with pytest.raises(Unauthorized):
        SIGNER.read_ticket(SIGNER.queue_pass(EVENT, USER, 7))
