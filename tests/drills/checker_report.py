"""What the checker found."""

from collections import Counter
from collections.abc import Iterator

import msgspec

SHOWN_MAX = 5
"""Of each rule; the others are counted."""


class Violation(msgspec.Struct):
    """Something that must never be false, and is."""

    rule: str
    text: str
    evidence: list[str] = []

    def __str__(self) -> str:
        """The sentence, and below it what it is drawn from."""
        return "\n    ".join([f"{self.rule}: {self.text}", *self.evidence])


class Report(msgspec.Struct):
    """The verdict, and how much it rests on."""

    violations: list[Violation] = []
    found: Counter[str] = msgspec.field(default_factory=Counter)
    """How often each rule was broken, those that are not shown included."""
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    """What was looked at, and what happened in the run."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing was broken."""
        return not self.found

    def add(self, rule: str, text: str, *evidence: object) -> None:
        """Note a violation; the first few of each rule are shown."""
        self.found[rule] += 1
        if self.found[rule] <= SHOWN_MAX:
            self.violations.append(
                Violation(rule, text, [str(each) for each in evidence if each is not None])
            )

    def lines(self) -> Iterator[str]:
        """The report for people."""
        for violation in self.violations:
            yield str(violation)
        for rule, count in self.found.items():
            if count > SHOWN_MAX:
                yield f"{rule}: {count - SHOWN_MAX} more"
        yield ", ".join(f"{name} {count:,}" for name, count in sorted(self.counts.items()))
        yield "CLEAN" if self.is_clean else f"{sum(self.found.values())} VIOLATIONS"
