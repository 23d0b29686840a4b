"""The text of a booking's record, spelled once more than in the product."""

from engine.booking import Record


def spell_record(record: Record) -> str:
    """The text, as the scripts and the queries of a rebuild write it."""
    return " ".join("-" if value in (None, "") else str(value) for value in record)
