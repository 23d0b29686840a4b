"""The statements of engine/queries/*.sql, each a function of its name and parameters."""

from pathlib import Path
from typing import Any

import aiosql


def load_queries(name: str) -> Any:
    """The queries of `engine/queries/<name>.sql`; the first argument of each is a connection or a pool."""
    return aiosql.from_path(Path(__file__).parent / "queries" / f"{name}.sql", "asyncpg")
