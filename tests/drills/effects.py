"""The effects: whatever changes Redis or Postgres, or tells somebody something. They are listed here alone.

tests/drills/effect_walk.py reads the program with these tables. A call is named here as it stands in the
source, without `self.` and without leading underscores, by its last two words: `self._stores.redis.xtrim` is
`redis.xtrim`. What is in none of the tables is reported, so a new effect cannot come in unnoticed.
"""

import re

TRANSPORTS = {
    "stores.run": "engine.stores.Stores.run",
    "run": "engine.stores.script_runner.run",
    "announce": "engine.durability.announce",
    "call": "engine.rebuild.CellBuilder._call",
    "copy": "engine.projection._copy",
    "ask": "engine.redis_ask.ask",
}
"""Functions of ours that are nothing but the way to one effect, and where each is defined: the fail point
stands behind each call of them, not in them."""

ANSWERS = {"send", "transport.write"}
"""To ASGI, and to a socket."""
TELLING = {"send", "sendall", "sendto", "write", "writelines"}
"""Whatever is called so must be classified, waited for or not."""

REDIS = {"redis", "client", "replica", "reader", "pipeline", "pubsub"}
"""Names of redis-py's objects."""
REDIS_EFFECTS = {
    "delete", "evalsha", "expire", "flushall", "hdel", "hset", "publish", "rename", "script_flush",
    "script_load", "set", "unlink", "xadd", "xtrim", "zadd", "zrem",
}  # fmt: skip
REDIS_READS = {
    "bitcount", "exists",
    "get", "hexists", "hget", "hgetall", "hmget", "hscan_iter", "info", "mget", "ping", "scan_iter",
    "script_exists", "time", "xinfo_stream", "xrange", "xread", "zcard", "zrange",
}  # fmt: skip
REDIS_QUIET = {
    "aclose", "execute", "get_message", "pipeline", "pubsub", "set_response_callback", "subscribe",
}  # fmt: skip
"""What concerns the connection alone. `pipeline.execute` is what was put into the pipeline."""

COMMANDS = {"line.call": 0, "ask": 1}
"""Calls that send Redis a command, and which of their arguments says it: a word, or a tuple that begins with
one."""
COMMANDS_READ = {
    "CLUSTER",
    "EXISTS",
    "GET",
    "HEXISTS",
    "HGET",
    "HMGET",
    "INFO",
    "MGET",
    "PING",
    "ROLE",
    "SENTINEL",
    "XREAD",
    "ZSCORE",
}
"""What may be sent so without being an effect."""

POSTGRES = {"connection", "pool"}
"""Names of asyncpg's objects."""
POSTGRES_STATEMENTS = {"execute", "executemany", "fetch", "fetchrow", "fetchval"}
POSTGRES_EFFECTS = {"copy_records_to_table", "copy_to_table"}
POSTGRES_QUIET = {"acquire", "add_listener", "close", "get_server_pid", "terminate"}
READS_WHAT_IT_IS_GIVEN = {"engine.cells.CellDirectory._fetch"}
"""Functions that run a statement of their callers, who only read."""
SQL_EFFECT = re.compile(
    r"\b(INSERT|(?<!FOR )(?<!KEY )UPDATE|DELETE|TRUNCATE|COPY|MERGE|CREATE|ALTER|DROP)\b"
    r"|\bpg_notify\(|\bNOTIFY\b|\bpg_try_advisory_lock\(|\bpg_advisory_lock\("
)
"""A lock of rows ends with its transaction and changes nothing; an advisory lock is seen by others."""

OBJECTS = {
    "accounts": "Accounts",
    "admission": "Admission",
    "auditor": "Auditor",
    "bookings": "Bookings",
    "builder": "CellBuilder",
    "builders": "Builders",
    "calls": "QueueCalls",
    "catalogue": "Catalogue",
    "cells": "CellDirectory",
    "children": "Children",
    "drain": "Drain",
    "draws": "Draws",
    "durability": "Durability",
    "edits": "Edits",
    "editor": "CatalogueEditor",
    "expiry": "Expiry",
    "finder": "MasterFinder",
    "gathering": "Gathering",
    "hasher": "PasswordHasher",
    "inventory": "Inventory",
    "lease": "Lease",
    "ledgers": "LedgerReader",
    "lifter": "Lifter",
    "line": "HotLine",
    "link": "RedisLink",
    "lotteries": "Lotteries",
    "moving": "Moving",
    "proofs": "Proofs",
    "publisher": "Publisher",
    "quick": "QuickAuditor",
    "read": "CatalogueReader",
    "recovery": "Recovery",
    "relay": "Relay",
    "repair": "QueueRepair",
    "reserving": "Reserving",
    "rooms": "WaitingRooms",
    "slices": "Slices",
    "standings": "Standings",
    "stores": "Stores",
    "streams": "QueueStreams",
    "views": "QueueViews",
    "waiting": "QueueBuilder",
}
"""Which class of ours a name stands for: its methods are walked themselves."""

QUIET = {
    "aclosing", "asyncio", "asyncpg", "contextlib", "create_connection", "create_unix_connection",
    "doubtful.wait", "first_attempt.wait", "look_again.wait", "looked.wait", "open_replica", "pipeline.pop",
    "pool.shutdown", "reader.feed", "reader.read", "receive", "setsockopt", "startup", "stderr.write",
    "stdout.write", "stop.wait", "super.connect", "super.send_packed_command", "wake.wait", "woken.wait",
}  # fmt: skip
"""Waiting, opening and closing; and what is called like a store and is none. A word stands for whatever is
called so, or is a module of that name."""

PASSED_IN = {
    "act",
    "find",
    "handler",
    "is_done",
    "look",
    "open_lifter",
    "opener",
    "operation.handler",
    "reply.stream",
}
"""Functions that somebody else hands over: they are walked where they stand."""

ONLY_LOOKS = "engine/audit"
"""Modules that ask whatever they are told to ask. Their calls need not be classified; an effect that the
tables know is found in them as everywhere."""

NOT_OF_A_PROCESS = {"engine.accounts.Accounts.ensure"}
"""Functions that neither a gateway nor a worker calls: what sets up an installation."""
