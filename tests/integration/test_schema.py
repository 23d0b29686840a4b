"""The committed schema is what the migrations lead to."""

from rush.schema import PATH, current_schema


def test_schema_sql_is_what_the_migrations_lead_to() -> None:
    assert current_schema() == PATH.read_text(encoding="utf-8"), "run: make schema"
