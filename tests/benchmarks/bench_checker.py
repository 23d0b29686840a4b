"""What the drills' checker costs: a long history, from the clients' files to the verdict.

    python -m tests.benchmarks.bench_checker [--operations 1000000] [--clients 32]

The history is that of a rush which the toy shop serves: a quarter gets something, many of those confirm or
cancel, the others press again or are told that all is gone; several clients at a time. Printed is the CPU
time of this process for each part, on one core. Making the history is not counted.
"""

import argparse
import gc
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.drills.checker import check, without_garbage_collection
from tests.drills.checker_evidence import Evidence
from tests.drills.checker_report import Report
from tests.drills.history import ClientWriter, EntryWriter, read_entries, read_operations
from tests.drills.toy_shop import HOLD_TTL_MS, Shop


def a_rush(operations: int) -> Evidence:
    """So many operations in one sale."""
    choice = random.Random(7)
    shop = Shop((operations // 8, operations // 8, operations // 100), keeps_snapshots=False)
    user = 0
    while len(shop.operations) < operations:
        user += 1
        zone, quantity = choice.choice((0, 0, 1, 1, 2)), choice.randint(1, 2)
        key = f"{user:016x}" if choice.random() < 0.8 else None
        answer = shop.reserve(user, [(zone, quantity)], key=key).answer
        if choice.random() < 0.05:
            shop.reserve(user, [(zone, quantity)], key=key)
        if answer is not None and answer.booking is not None and choice.random() < 0.7:
            move = shop.confirm if choice.random() < 0.8 else shop.cancel
            move(answer.booking)
        shop.pass_time(choice.random() < HOLD_TTL_MS / operations)
    shop.sweep()
    return shop.evidence()


def write(evidence: Evidence, folder: Path, clients: int) -> None:
    """As the clients and the watcher write it."""
    writers = [ClientWriter(folder, str(number)) for number in range(clients)]
    for number, operation in enumerate(evidence.operations):
        writer = writers[number % clients]
        # They overlap: each was asked before some of the others were answered.
        operation.asked.asked_ns -= 20 * (number % clients)
        writer.write(operation.asked)
        if operation.answer is not None:
            writer.write(operation.answer)
    entries = EntryWriter(folder)
    for entry in evidence.entries:
        entries.write(entry)
    entries.close()
    for writer in writers:
        writer.close()


def measure(operations: int, clients: int) -> tuple[Report, dict[str, float]]:
    """The verdict and the CPU seconds of each part."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        evidence = a_rush(operations)
        write(evidence, folder, clients)
        evidence.operations, evidence.entries = [], []
        gc.collect()
        began_s = time.process_time()
        with without_garbage_collection():
            evidence.operations = list(read_operations(folder))
            evidence.entries = read_entries(folder)
        read_s = time.process_time() - began_s
        report = check(evidence)
        return report, {"read": read_s, "check": time.process_time() - began_s - read_s}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=32)
    arguments = parser.parse_args()
    report, seconds = measure(arguments.operations, arguments.clients)
    print(f"{platform.machine()}, Python {platform.python_version()}, {arguments.operations:,} operations")
    for part, part_s in [*seconds.items(), ("together", sum(seconds.values()))]:
        print(f"{part:10} {part_s:6.2f} s")
    print(*report.lines(), sep="\n")
    return 0 if report.found == Counter() else 1


if __name__ == "__main__":
    sys.exit(main())
