"""Slots of keys, and who owns them: views of the nodes are added up, and an old one takes nothing back."""

import pytest
from redis.crc import key_slot

from engine.ids import CellId
from engine.keys import CellKeys
from engine.slots import Claim, SlotMap, read_view, slot_of, slot_of_cell

VIEW = """\
aaa 127.0.0.1:7000@17000,one.example myself,master - 0 0 3 connected 0-99 101 [101->-bbb]
bbb ::1:7001@17001 master - 0 1700 5 connected 102-16383
ccc 127.0.0.1:7002@17002 slave aaa 0 1700 3 connected
ddd 127.0.0.1:7003@17003 master,fail - 0 1700 2 disconnected 100
eee :0@0 master,noaddr - 0 1700 9 disconnected 0-16383
fff 127.0.0.1:7005@17005 master - 0 1700 7 connected
"""


@pytest.mark.parametrize("key", ["x", "rush:{1.0}:sale", "{}x", "a{", "{a}{b}", "a}b{c}", "{ü}", ""])
def test_the_slot_of_a_key_is_what_redis_says(key: str) -> None:
    assert slot_of(key) == key_slot(key.encode())


def test_a_cell_is_in_the_slot_of_its_keys() -> None:
    cell_id = CellId(0x1234_5678_9ABC, 7)
    assert slot_of_cell(cell_id) == slot_of(CellKeys(cell_id).ledger)


def test_a_view_names_the_masters_with_slots() -> None:
    assert read_view(VIEW, "asked").claims == [
        Claim("aaa", 3, "127.0.0.1", 7000, ((0, 99), (101, 101))),
        Claim("bbb", 5, "::1", 7001, ((102, 16383),)),
        Claim("ddd", 2, "127.0.0.1", 7003, ((100, 100),)),
    ]


def test_a_view_knows_everybody() -> None:
    assert read_view(VIEW, "asked").nodes == {"aaa", "bbb", "ccc", "ddd", "eee", "fff"}


def test_a_node_without_an_address_is_where_it_was_asked_and_a_certificate_proves_a_name() -> None:
    view = "aaa :7000@17000,one.example myself,master - 0 0 3 connected 0-99\n"
    assert read_view(view, "asked").claims[0].host == "asked"
    assert read_view(view, "asked", by_name=True).claims[0].host == "one.example"


def test_what_is_no_view_is_refused() -> None:
    with pytest.raises(ValueError):
        read_view("OK", "asked")


def claim(node: str, epoch: int, first: int, last: int, port: int = 7000) -> Claim:
    return Claim(node, epoch, "h", port, ((first, last),))


def test_of_two_owners_the_later_one_is_believed_in_any_order() -> None:
    old, new = [claim("a", 1, 0, 9)], [claim("a", 1, 0, 4), claim("b", 2, 5, 9)]
    for views in ([old, new], [new, old], [new, old, new, old]):
        slots = SlotMap()
        for view in views:
            slots.take(view)
        assert slots.owners[:11] == ["a"] * 5 + ["b"] * 5 + [None]
        assert slots.masters() == {"a": ("h", 7000), "b": ("h", 7000)}


def test_a_master_without_a_slot_is_none_any_more() -> None:
    slots = SlotMap()
    assert slots.take([claim("a", 1, 0, 9)])
    assert not slots.take([claim("a", 1, 0, 9)])
    assert slots.take([claim("b", 2, 0, 9)])
    assert slots.masters() == {"b": ("h", 7000)}


def test_a_node_that_comes_back_elsewhere_is_found_there_and_where_it_was_before() -> None:
    slots = SlotMap()
    slots.take([claim("a", 1, 0, 9)])
    assert slots.take([claim("a", 1, 0, 9, port=7009)])
    assert slots.masters() == {"a": ("h", 7009)}
    assert slots.take([claim("a", 1, 0, 9)])
    assert slots.masters() == {"a": ("h", 7000)}


def test_an_old_view_takes_no_address_back() -> None:
    slots = SlotMap()
    slots.take([claim("a", 2, 0, 9, port=7009)])
    assert not slots.take([claim("a", 1, 0, 9)])
    assert slots.masters() == {"a": ("h", 7009)}


def test_where_a_node_is_that_owns_nothing_is_no_news() -> None:
    slots = SlotMap()
    slots.take([claim("b", 2, 0, 9), claim("a", 1, 0, 9)])
    assert not slots.take([claim("a", 1, 0, 9, port=7009)])


def test_a_later_epoch_alone_is_no_news() -> None:
    slots = SlotMap()
    slots.take([claim("a", 1, 0, 9)])
    assert not slots.take([claim("a", 3, 0, 9)])
    assert not slots.take([claim("b", 2, 0, 9)]), "and still counts"


def test_a_cluster_that_was_made_anew_is_believed() -> None:
    slots = SlotMap()
    slots.take([claim("a", 7, 0, 9)])
    assert not slots.take([claim("c", 1, 0, 9, port=7009)])
    assert slots.forget_all_but({"c"})
    assert slots.masters() == {"c": ("h", 7009)}
    assert slots.owners[:11] == ["c"] * 10 + [None]


def test_who_is_still_known_keeps_what_it_owns() -> None:
    slots = SlotMap()
    slots.take([claim("a", 7, 0, 4), claim("b", 1, 5, 9), claim("c", 0, 5, 9)])
    assert not slots.forget_all_but({"a", "b", "c", "d"})
    assert not slots.forget_all_but({"a", "b"}), "it owned nothing"
    assert slots.owners[:10] == ["a"] * 5 + ["b"] * 5
