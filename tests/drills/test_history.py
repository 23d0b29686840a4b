"""The history is read back as it was written, whatever happened to its writers."""

from pathlib import Path

import pytest

from tests.drills.history import (
    Answered,
    Asked,
    ClientWriter,
    Details,
    Entry,
    EntryWriter,
    Event,
    Fault,
    Operation,
    Run,
    Zone,
    answered,
    read_entries,
    read_operations,
    read_run,
    write_run,
)

GRANTED = (
    b'{"success":true,"data":{"id":"b1","status":"reserved","durable":false,"event_id":"e1","items":['
    b'{"show_id":"s1","zone_id":"z1","quantity":2,"unit_price":"0.00"}],"quantity":2,"confirmation_code":null}}'
)
REFUSED = (
    b'{"success":false,"error":{"code":"INSUFFICIENT_STOCK","message":"Not enough seats available",'
    b'"details":{"available":1}}}'
)


def test_a_question_and_its_answer_are_joined(tmp_path: Path) -> None:
    client = ClientWriter(tmp_path, "0")
    first = Asked(1, "reserve", 10, "u1", "e1", key="k", items=(("z1", 2),))
    second = Asked(2, "confirm", 11, "u1", "e1", booking="b1")
    for line in (
        first,
        second,
        Answered(2, 30, None),
        answered(1, 20, 201, {"x-ledger-seq": "1-7"}, GRANTED),
    ):
        client.write(line)
    client.close()
    reserve, confirm = read_operations(tmp_path)
    assert reserve.asked == first
    assert reserve.answer is not None
    assert (reserve.answer.booking, reserve.answer.status, reserve.answer.durable) == (
        "b1",
        "reserved",
        False,
    )
    assert (reserve.answer.at, reserve.answer.told, reserve.answer.replayed) == ("1-7", (("z1", 2),), False)
    assert confirm == Operation("0", second, Answered(2, 30, None))


def test_a_client_that_is_killed_leaves_a_question_without_an_answer(tmp_path: Path) -> None:
    client = ClientWriter(tmp_path, "0")
    client.write(Asked(1, "reserve", 10, "u1", "e1"))
    client.write(Asked(2, "reserve", 12, "u1", "e1"))
    client.close()
    path = tmp_path / "client-0.jsonl"
    path.write_bytes(path.read_bytes() + b'["answered",1,20,20')
    assert [operation.answer for operation in read_operations(tmp_path)] == [None, None]


def test_a_client_that_is_started_again_cannot_overwrite_what_it_knew(tmp_path: Path) -> None:
    ClientWriter(tmp_path, "0").close()
    with pytest.raises(FileExistsError):
        ClientWriter(tmp_path, "0")


def test_refusals_and_answers_that_are_not_ours_are_written_down() -> None:
    refused = answered(1, 20, 409, {"x-ledger-seq": "2-3"}, REFUSED)
    assert (refused.code, refused.details, refused.at) == ("INSUFFICIENT_STOCK", Details(available=1), "2-3")
    assert answered(1, 20, 502, {}, b"<html>").code is None
    assert answered(1, 20, 502, {}, b"[]").code is None


def test_the_same_body_has_the_same_digest_and_another_has_not() -> None:
    first, again, other = (
        answered(n, n, 201, {}, body) for n, body in enumerate((GRANTED, GRANTED, REFUSED))
    )
    assert first.digest == again.digest != other.digest


def test_an_entry_is_written_once_and_another_text_of_its_id_too(tmp_path: Path) -> None:
    watcher = EntryWriter(tmp_path)
    entry, other = Entry("E.0", "1-1", "a", 5), Entry("E.0", "1-1", "b", 9)
    assert [watcher.write(each) for each in (entry, Entry("E.0", "1-1", "a", 7), other)] == [
        True,
        False,
        True,
    ]
    watcher.close()
    assert read_entries(tmp_path) == [entry, other]


def test_nobody_saw_anything(tmp_path: Path) -> None:
    assert read_entries(tmp_path) == []
    assert list(read_operations(tmp_path)) == []


def test_run_is_read_back(tmp_path: Path) -> None:
    event = Event("e1", [Zone("z1", 100)], 4, 600_000)
    run = Run(7, "redis dies", [event], [Fault("redis_kill", 1, 2, may_lose=True, what="redis")])
    write_run(tmp_path, run)
    assert read_run(tmp_path) == run


def test_evidence_names_client_question_and_answer() -> None:
    asked = Asked(3, "reserve", 10, "u1", "e1", key="k", items=(("z1", 2),))
    assert str(Operation("c", asked)) == "c#3 reserve user=u1 key=k z1x2 asked_ns=10 -> no answer"
    line = str(Operation("c", asked, answered(3, 20, 409, {"x-ledger-seq": "2-3"}, REFUSED)))
    assert "-> 409 INSUFFICIENT_STOCK at=2-3 details=Details(" in line
