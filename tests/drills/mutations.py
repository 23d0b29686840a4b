"""Planted bugs: each takes out one thing that the design says must be there, and the drills must notice.

A bug is a patch to the shipped source, applied to a copy of it. A text that does not stand there exactly once
any more is an error: the bug must be planted anew, or it is not looked for.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

from engine.settings import project_root

PRODUCT = ("engine", "gateway", "workers", "rush", "observability", "loadtest", "lua", "migrations")


class Patch(NamedTuple):
    """In `file`, `old` (which stands there once) becomes `new`."""

    file: str
    old: str
    new: str


class Mutation(NamedTuple):
    """A bug, and the scene in which it shows: a name in `mutation_scenes`."""

    name: str
    scene: str
    patches: tuple[Patch, ...]


class NotPlanted(Exception):
    """The source does not read as the patch says."""


_REFUSAL = "    local refusal = check_pass(request) or check_order(request.basket) or check_stock(request)\n"

MUTATIONS = (
    Mutation(
        "announce before commit",
        "lost_before_durable",
        (
            Patch(
                "workers/relay.py",
                "        async with self._commits:\n            try:\n",
                "        await announce(self._ledgers.client, cell.id, batch.before, batch.after, [])\n"
                "        async with self._commits:\n            try:\n",
            ),
        ),
    ),
    Mutation(
        "offset outside the transaction",
        "dies_after_offset",
        (
            Patch(
                "engine/projection.py",
                "        async with connection.transaction():\n"
                "            await _advance(connection, batch)\n"
                "            await _write(connection",
                "        await _advance(connection, batch)\n"
                "        async with connection.transaction():\n"
                "            await _write(connection",
            ),
        ),
    ),
    Mutation(
        "blind offset instead of compare-and-set",
        "zombie_relay",
        (
            Patch(
                "engine/queries/relay.sql",
                "AND epoch = :epoch AND seq = :from_seq;",
                "AND epoch = :epoch AND :from_seq::bigint >= 0;",
            ),
        ),
    ),
    Mutation(
        "announcements compared across epochs",
        "lost_twice",
        (
            Patch(
                "engine/durability.py",
                "return heard is not None and heard.since < position <= heard.until",
                "return heard is not None and heard.since.seq < position.seq <= heard.until.seq",
            ),
        ),
    ),
    Mutation(
        "a lift without a new epoch",
        "flushed",
        (
            Patch(
                "engine/lift.py",
                '            epoch = row["epoch"] + 1\n            # Before the commit',
                '            epoch = row["epoch"] or 1\n            # Before the commit',
            ),
        ),
    ),
    Mutation(
        "`sale` written first in a rebuild",
        "flushed",
        (
            Patch(
                "engine/rebuild.py",
                "        await self.wipe()\n        is_large = ",
                "        await self.wipe()\n"
                "        await self._open(event_id, epoch, is_complete=True)\n        is_large = ",
            ),
        ),
    ),
    Mutation(
        "publishing after a flush without asking recovery",
        "published_after_flush",
        (
            Patch(
                "engine/cells.py",
                "        await asyncio.sleep(0.02)\n",
                """        from engine.rebuild import CellBuilder
        from engine.stores import script_runner
        async with stores.pool.acquire() as connection:
            epoch = await connection.fetchval("SELECT epoch FROM cells WHERE event_id = $1", event_id)
            if epoch:
                run = script_runner(stores.redis, stores.scripts)
                cell_id = ids.cell_of(event_id)
                builder = CellBuilder(cell_id, connection, stores.redis, run, stores.settings)
                await builder.begin(epoch)
                await builder._open(event_id, epoch, is_complete=True)
        await asyncio.sleep(0.02)
""",
            ),
        ),
    ),
    Mutation(
        "no flush of a replica's scripts",
        "there_and_back",
        (Patch("workers/recovery.py", "in node.replicas:", "in node.replicas[:0]:"),),
    ),
    Mutation(
        "a dead letter announced as durable",
        "poisoned",
        (
            Patch(
                "workers/relay.py", "batch.before, batch.after, rejected)", "batch.before, batch.after, [])"
            ),
        ),
    ),
    Mutation(
        "retry without the key",
        "replies_lost",
        (
            Patch(
                "gateway/reserve.py",
                "            replied = partial(self._replied, exchange, started_s, wish)\n",
                """            import asyncio

            from engine.errors import OutcomeUnknown

            told = partial(self._replied, exchange, started_s, wish)

            def replied(booking_id: str, reply: Any) -> None:
                if isinstance(reply, OutcomeUnknown):
                    again = services.bookings.ask_anew(wish, claims.sub, None, told)
                    asyncio.get_running_loop().call_later(0.6, self._aside, exchange, started_s, again)
                else:
                    told(booking_id, reply)

""",
            ),
        ),
    ),
    Mutation(
        "TTL as expiry",
        "nothing",
        (
            Patch(
                "lua/lib/booking.lua",
                "    for i = 1, #forgotten, 2 do\n",
                """    for i = 1, #written, 2 do
        local at = string.match(written[i + 1], '^reserved ' .. string.rep('%S+ ', 8) .. '(%d+)')
        if at then
            redis.call('PEXPIREAT', written[i], at)
        end
    end
    for i = 1, #forgotten, 2 do
""",
            ),
        ),
    ),
    Mutation(
        "write before check",
        "nothing",
        (
            Patch(
                "lua/reserve.lua",
                "    for _, item in ipairs(request.items) do\n"
                "        kinds[item.zone.kind].take(item.zone, item.quantity)\n    end\n",
                "",
            ),
            Patch(
                "lua/reserve.lua",
                _REFUSAL,
                f"{_REFUSAL}"
                "    for _, item in ipairs(request.items) do\n"
                "        kinds[item.zone.kind].take(item.zone, item.quantity)\n    end\n",
            ),
        ),
    ),
    Mutation(
        "confirm without the deadline",
        "nobody_sweeps",
        (
            Patch(
                "lua/lib/transitions.lua",
                "if verb ~= 'reject' and booking.is_held",
                "if verb == 'cancel' and booking.is_held",
            ),
        ),
    ),
    Mutation(
        "trimming what is not durable",
        "nothing",
        (
            Patch("workers/relay.py", "TRIM_INTERVAL_S = 10.0", "TRIM_INTERVAL_S = 0.2"),
            Patch(
                "workers/relay.py",
                "if position is not None and position.epoch == cell.offset.epoch:",
                "if cell.keys.ledger in self._busy:",
            ),
            Patch("workers/relay.py", "minid=str(position), approximate=True", "maxlen=0, approximate=False"),
        ),
    ),
    Mutation(
        "scripts loaded by the gateway",
        "end_cut_off",
        (
            Patch(
                "engine/gathering.py",
                "        except Exception as error:\n"
                "            _fail(requests, error)\n            return\n",
                """        except Exception as error:
            if type(error).__name__ == "Fenced":
                source = self._stores.scripts["reserve"].source
                asyncio.ensure_future(self._stores.redis.script_load(source))
            _fail(requests, error)
            return
""",
            ),
        ),
    ),
    Mutation(
        "a cancelled future dropped from the hot line",
        "redis_stalls",
        (
            Patch(
                "engine/redis_link.py",
                "                future = pending.popleft()\n",
                "                future = pending.popleft()\n"
                "                while future is not None and future.done() and pending:\n"
                "                    future = pending.popleft()\n",
            ),
        ),
    ),
    Mutation(
        "a seat without a pass",
        "waits",
        (
            Patch(
                "lua/lib/passes.lua",
                "    if request.pass == NONE then\n        return status.PASS_REQUIRED\n    end\n",
                "    if request.pass == NONE then\n        return nil\n    end\n",
            ),
        ),
    ),
    Mutation(
        "a pass that is not spent",
        "waits",
        (Patch("lua/lib/passes.lua", "redis.call('ZREM', keys.passes, unpack(gone))", "local _ = gone"),),
    ),
    Mutation(
        "passes without a bound",
        "waits",
        (Patch("lua/lib/bound.lua", "return math.max(0, people_max - out)", "return people_max"),),
    ),
    Mutation(
        "numbers given again after a lost end",
        "waits_and_end_cut_off",
        (Patch("lua/open.lua", "if last < tail then", "if last < 0 then"),),
    ),
)


def copy_source(target: Path) -> Path:
    """The shipped source, without what is not of the product; where it stands then."""
    for name in PRODUCT:
        shutil.copytree(project_root() / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project_root() / "pyproject.toml", target)
    return target


def plant(mutation: Mutation, source: Path) -> None:
    """Apply a bug to a copy of the source. Raises NotPlanted."""
    for patch in mutation.patches:
        path = source / patch.file
        text = path.read_text(encoding="utf-8")
        count = text.count(patch.old)
        if count != 1:
            raise NotPlanted(f"{mutation.name}: {count} times in {patch.file}, not once:\n{patch.old}")
        path.write_text(text.replace(patch.old, patch.new), encoding="utf-8")
