"""The rush before it begins: who arrives when, what they want, what the command line means."""

import itertools

import pytest

from loadtest.arrivals import arrival_times, own_arrivals
from loadtest.cli import main
from loadtest.options import parse
from loadtest.organizer import Target, TargetError
from loadtest.profile import load_profile


def test_everybody_arrives_in_order_at_the_given_rate() -> None:
    times = list(arrival_times(20_000, 500.0, seed=7))
    assert len(times) == 20_000
    assert times == sorted(times)
    assert times[-1] == pytest.approx(40, rel=0.03)


def test_arrivals_are_a_poisson_process_and_no_metronome() -> None:
    gaps = [b - a for a, b in itertools.pairwise(arrival_times(20_000, 100.0, seed=3))]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance**0.5 == pytest.approx(mean, rel=0.05)


def test_processes_share_the_same_people_out_among_them() -> None:
    alone = list(own_arrivals(1_000, 50.0, 11, 0, 1))
    shared = [each for process in range(3) for each in own_arrivals(1_000, 50.0, 11, process, 3)]
    assert sorted(shared) == alone


def test_another_seed_is_another_crowd() -> None:
    assert list(arrival_times(10, 1.0, 1)) != list(arrival_times(10, 1.0, 2))


def test_the_profile_is_what_people_bought() -> None:
    profile = load_profile("emf")
    assert [basket.weight for basket in profile.baskets] == [60, 25, 20, 20, 10]
    assert profile.max_per_user == 6
    assert "emfcamp/Website" in profile.source
    assert all(zone.price == "0.00" for zone in profile.zones)
    assert profile.demand()["Full Camp Ticket"] == pytest.approx(185 / 135)


@pytest.mark.parametrize("tickets", [3, 10, 999, 60_000])
def test_capacities_add_up_to_the_tickets_and_follow_the_demand(tickets: int) -> None:
    profile = load_profile("emf")
    capacities = profile.capacities(tickets)
    assert sum(capacities.values()) == tickets
    assert min(capacities.values()) >= 1
    if tickets >= 999:
        share = capacities["Parking Ticket"] / tickets
        assert share == pytest.approx(55 / 260, abs=0.01)


def test_fewer_tickets_than_zones_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        load_profile("emf").capacities(2)


def test_the_command_line_fills_itself_in() -> None:
    options = parse(["--duration", "10", "--rate", "200"])
    assert (options.people, options.tickets) == (2_000, 600)
    assert parse(["--arrivals", "200000", "--tickets", "60000"]).people == 200_000
    assert parse([]).seed != parse([]).seed


@pytest.mark.parametrize(
    "words",
    [
        ["--people", "10", "--duration", "5"],
        ["--confirm-share", "0.9", "--cancel-share", "0.2"],
        ["--people", "0"],
        ["--rate", "inf"],
        ["--processes", "5", "--people", "2"],
        ["--target", "http://127.0.0.1:8000", "--own-stack"],
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(words)
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org:8000",
        "https://127.0.0.1:8000",
        "http://10.0.0.7:80",
        "http://127.0.0.1",
        "127.0.0.1:80",
        "http://127.0.0.1.example.org:80",
    ],
)
def test_only_this_machine_may_be_loaded(url: str) -> None:
    with pytest.raises(TargetError, match="only this machine"):
        Target(url)


def test_a_forbidden_target_ends_with_status_2(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUSH_DATA_DIR", str(tmp_path))
    assert main(["--target", "http://192.0.2.1:8000"]) == 2
    assert "only this machine" in capsys.readouterr().err
