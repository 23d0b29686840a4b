"""Whatever the shop that makes no mistakes does, the checker has nothing to say."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.bench_checker import measure
from tests.drills.checker import check
from tests.drills.toy_shop import HOLD_TTL_MS, Shop

FATES = st.sampled_from(["answered", "answered", "answered", "no reply", "no request"])
ITEMS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 3)), min_size=1, max_size=2, unique_by=lambda item: item[0]
)
ACTIONS = st.one_of(
    st.tuples(st.just("reserve"), st.integers(1, 5), ITEMS, st.sampled_from([None, None, "a", "b"]), FATES),
    st.tuples(st.just("confirm"), st.integers(0, 30), st.booleans(), FATES),
    st.tuples(st.just("cancel"), st.integers(0, 30), FATES),
    st.tuples(st.just("time"), st.sampled_from([1, 1000, HOLD_TTL_MS // 2, HOLD_TTL_MS])),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("lose"), st.integers(0, 3)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ACTIONS, max_size=60))
def test_a_history_without_a_mistake_gives_no_alarm(actions: list[tuple]) -> None:  # type: ignore[type-arg]
    shop = Shop((7, 5))
    durable = 0
    for action, *arguments in actions:
        bookings = list(shop.stock.bookings)
        match action:
            case "reserve":
                user, items, key, fate = arguments
                shop.reserve(user, items, key=key, fate=fate)
            case "confirm" if bookings:
                number, is_durable, fate = arguments
                held = bookings[number % len(bookings)]
                answer = shop.confirm(held, is_durable=is_durable, fate=fate).answer
                if answer is not None and answer.durable:
                    durable = shop.position
            case "cancel" if bookings:
                number, fate = arguments
                shop.cancel(bookings[number % len(bookings)], fate=fate)
            case "time":
                shop.pass_time(arguments[0])
            case "sweep":
                shop.sweep()
            case "lose":
                shop.fault(may_lose=True)
                first = shop.position >> 40 << 40
                shop.lose(max(0, max(durable, shop.position - arguments[0]) - first))
    shop.sweep()
    report = check(shop.evidence())
    assert report.found == Counter(), "\n".join(report.lines())


def test_a_rush_that_is_written_down_and_read_back_gives_no_alarm_either() -> None:
    report, seconds = measure(operations=3_000, clients=4)
    assert report.found == Counter(), "\n".join(report.lines())
    assert report.counts["answers with a place"] == report.counts["operations"] >= 3_000
    assert seconds.keys() == {"read", "check"}
