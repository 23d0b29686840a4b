"""The parts of `rush bench` that calculate: options, histograms, processor time, percentiles."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest import bench_options
from loadtest.bench_cpu import TICKS_PER_S, Used, children_by_parent, cpu, group_of, stack_books, tree_cpu
from loadtest.bench_metrics import parse_buckets, percentile_ms, since
from loadtest.bench_phase import percentiles_ms

METRICS = """
# HELP http_request_duration_seconds a request was answered
http_request_duration_seconds_bucket{le="0.001",method="POST",route="/r"} 10.0
http_request_duration_seconds_bucket{le="0.01",method="POST",route="/r"} 90.0
http_request_duration_seconds_bucket{le="+Inf",method="POST",route="/r"} 100.0
http_request_duration_seconds_bucket{le="0.001",method="GET",route="/r"} 7.0
http_request_duration_seconds_bucket{le="0.001",method="POST",route="/other"} 8.0
http_request_duration_seconds_count{method="POST",route="/r"} 100.0
"""
INFINITY = float("inf")


def test_the_buckets_of_one_route_are_read() -> None:
    assert parse_buckets(METRICS, "/r") == {0.001: 10.0, 0.01: 90.0, INFINITY: 100.0}
    assert parse_buckets("", "/r") == {}


def test_buckets_are_subtracted_also_from_none() -> None:
    after = parse_buckets(METRICS, "/r")
    assert since(after, {}) == after
    assert since(after, {0.001: 4.0, 0.01: 4.0, INFINITY: 4.0}) == {0.001: 6.0, 0.01: 86.0, INFINITY: 96.0}


@pytest.mark.parametrize(
    ("percent", "expected_ms"),
    [(5, 0.5), (10, 1.0), (50, 5.5), (90, 10.0), (99, 10.0)],
)
def test_percentiles_are_linear_within_a_bucket_and_end_at_the_highest_bound(
    percent: float, expected_ms: float
) -> None:
    assert percentile_ms(parse_buckets(METRICS, "/r"), percent) == pytest.approx(expected_ms)


def test_an_empty_histogram_has_no_percentile() -> None:
    assert percentile_ms({}, 50) is None
    assert percentile_ms({0.1: 0.0, INFINITY: 0.0}, 50) is None


def test_percentiles_come_from_all_values_by_nearest_rank() -> None:
    values = [float(value) for value in range(1000, 0, -1)]
    assert percentiles_ms(values) == {"P50": 500, "P95": 950, "P99": 990, "P99.9": 999, "max": 1000}
    assert percentiles_ms([7.0]) == {"P50": 7, "P95": 7, "P99": 7, "P99.9": 7, "max": 7}
    assert percentiles_ms([]) == {}


@pytest.mark.parametrize(
    ("line", "group"),
    [
        ("python -m rush serve --processes 1 --as gateway-2", "gateway"),
        ("python -m rush work relay --as relay", "relay"),
        ("python -m rush work expiry --as workers", "workers"),
        ("bin/postgres -D data -c port=1", "postgres"),
        ("bin/valkey-server 127.0.0.1:6000", "redis"),
        ("redis-server conf", "redis"),
        ("", "supervisor"),
    ],
)
def test_a_process_is_known_by_its_command_line(line: str, group: str) -> None:
    assert group_of(line.split()) == group


def test_processor_time_counts_children_that_live_and_those_that_are_gone() -> None:
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    script = (
        "import subprocess, sys\n"
        f"burn = {burn!r}\n"
        "subprocess.run([sys.executable, '-c', burn], check=True)\n"
        "living = subprocess.Popen([sys.executable, '-c', burn + 'print(1, flush=True)\\nsys = input()'],\n"
        "    stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "living.stdout.readline()\n"
        "print('ready', flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        [living] = children_by_parent()[process.pid]
        assert cpu(living).all >= 0.3 - 2 / TICKS_PER_S
        assert cpu(process.pid).all >= 0.3 - 2 / TICKS_PER_S
        assert tree_cpu(process.pid, children_by_parent()).all >= 0.6 - 4 / TICKS_PER_S
        books = stack_books(process.pid)
        assert books.pids == {living}
        assert books.since(books)["supervisor"] == Used()
        process.communicate(b"\n")


def test_a_process_that_is_gone_has_used_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert cpu(process.pid) == Used()


def test_the_defaults_are_the_minute_that_is_promised() -> None:
    options = bench_options.parse([])
    assert (options.seconds, options.rate, options.connections) == (60.0, 10_000.0, 64)
    assert options.seats >= 650_000
    assert options.seats >= bench_options.most_reservations(options)
    assert not options.no_page


def test_a_smoke_is_small_and_leaves_no_page() -> None:
    options = bench_options.parse(["--smoke"])
    assert options.seconds * options.rate < 1_000
    assert options.no_page


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seconds", "0"], "positive number"),
        (["--rate", "many"], "positive number"),
        (["--connections", "-1"], "count"),
        (["--seats", "1000"], "nobody may find it sold out"),
        (["--seconds", "10000"], "10,000,000"),
        (["--locust-processes", "65"], "64"),
        (["--connections", "2", "--locust-processes", "3"], "a connection for each"),
        (["--seconds", "0.01", "--rate", "1"], "not even one"),
        (["--fast"], "unrecognized"),
    ],
)
def test_a_wrong_option_is_told_in_words(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench_options.parse(words)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_locust_counts_batches_as_it_counts_single_requests() -> None:
    """In a process of its own: Locust changes the standard library when it is imported."""
    script = Path(__file__).with_name("hot_stats_in_locust.py")
    root = script.parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
