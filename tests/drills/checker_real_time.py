"""Real time: who asked after somebody else had been answered is not answered from an earlier state."""

from tests.drills.checker_evidence import SEQ_BITS, position_text
from tests.drills.checker_ledger import Ledger
from tests.drills.checker_report import Report
from tests.drills.history import Fault, Operation


class RealTime:
    """Sees the answers of a cell in the order of their places, and compares each with who asked last of all
    that stand before it: nobody may have asked so late.

    While a fault that may lose something is on, a master that was replaced and does not know it may still
    answer: that is no measure for the epochs that follow.
    """

    def __init__(self, ledger: Ledger, faults: list[Fault], report: Report) -> None:
        self._ledger = ledger
        self._faults = [fault for fault in faults if fault.may_lose]
        self._report = report
        self._position = -1
        self._latest: tuple[int, Operation] | None = None
        """Who asked last at an earlier place of this epoch, or of another and without an excuse."""
        self._latest_firm: tuple[int, Operation] | None = None
        self._here: list[tuple[int, Operation]] = []
        """Who was answered at this place: in which order is not known."""

    def see(self, position: int, operation: Operation) -> None:
        """Take the next one."""
        answer = operation.answer
        assert answer is not None
        if position != self._position:
            self._go_to(position)
        latest = self._latest
        if latest is not None and answer.answered_ns < latest[1].asked.asked_ns:
            self._report.add(
                "real time",
                f"{self._ledger.tag}: was answered at {position_text(latest[0])}, "
                f"and asked after somebody was answered at {position_text(position)}",
                operation,
                latest[1],
            )
        self._here.append((position, operation))

    def _go_to(self, position: int) -> None:
        for each in self._here:
            asked_ns = each[1].asked.asked_ns
            if self._latest is None or asked_ns > self._latest[1].asked.asked_ns:
                self._latest = each
            firm = self._latest_firm
            is_later = self._faults and (firm is None or asked_ns > firm[1].asked.asked_ns)
            if is_later and not self._is_excused(each[1]):
                self._latest_firm = each
        self._here.clear()
        if self._faults and position >> SEQ_BITS != self._position >> SEQ_BITS:
            self._latest = self._latest_firm
        self._position = position

    def _is_excused(self, operation: Operation) -> bool:
        answer = operation.answer
        assert answer is not None
        asked_ns, answered_ns = operation.asked.asked_ns, answer.answered_ns
        return any(fault.begin_ns <= answered_ns and fault.end_ns >= asked_ns for fault in self._faults)
