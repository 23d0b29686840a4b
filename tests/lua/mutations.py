"""Faults, each planted in a copy of lua/: what the state machine must find."""

import shutil
from pathlib import Path
from typing import NamedTuple

from engine.settings import project_root


class Mutation(NamedTuple):
    """One fault: in `file` of lua/, `old` (which stands there once) becomes `new`."""

    name: str
    file: str
    old: str
    new: str


MUTATIONS = (
    Mutation("stock is not checked", "lib/counted.lua", "of.available + of.planned >= quantity", "true"),
    Mutation(
        "a person has no limit",
        "lib/take_back.lua",
        "return take_back.held(request) + request.quantity > sale.max_per_user",
        "return false",
    ),
    Mutation(
        "only the first item is taken",
        "reserve.lua",
        "        kinds[item.zone.kind].take(item.zone, item.quantity)",
        "        if item == request.items[1] then kinds[item.zone.kind].take(item.zone, item.quantity) end",
    ),
    Mutation(
        "confirm forgets the deadline",
        "lib/transitions.lua",
        "if verb ~= 'reject' and booking",
        "if verb == 'cancel' and booking",
    ),
    Mutation(
        "giving back forgets the buyer",
        "lib/hold.lua",
        "    buyers.release(record.buyer, booking_id, record.quantity)",
        "",
    ),
    Mutation(
        "confirm writes before it checks",
        "confirm.lua",
        "local record = booking.load(KEYS[5])",
        "local record = booking.load(KEYS[5])\nredis.call('HSET', KEYS[1], 'touched', 1)",
    ),
    Mutation(
        "another request with the same key is answered as a replay",
        "reserve.lua",
        "elseif record.fingerprint ~= request.fingerprint then",
        "elseif false then",
    ),
    Mutation(
        "sold out is said while more is due",
        "reserve.lua",
        "(over_limit or short) and more_due",
        "false",
    ),
    Mutation(
        "a deadline is a moment late", "lib/booking.lua", "expires_at_ms <= now_ms", "expires_at_ms < now_ms"
    ),
    Mutation("the index is a moment late", "lib/deadlines.lua", "(now_ms + 1)", "now_ms"),
    Mutation(
        "an order has no limit",
        "reserve.lua",
        "if item.quantity > item.zone.max_per_order then",
        "if false then",
    ),
    Mutation("the show is not compared", "reserve.lua", "item.show ~= item.zone.show", "false"),
    Mutation("a person without units stays", "lib/buyers.lua", "gone[#gone + 1] = buyer.user", ""),
    Mutation(
        "giving back forgets the deadline",
        "lib/hold.lua",
        "    if record.status == 'reserved' then",
        "    if false then",
    ),
    Mutation(
        "confirm leaves the deadline",
        "confirm.lua",
        "deadlines.remove(booking_id, record.expires_at_ms, record.item_list)",
        "",
    ),
    Mutation(
        "confirm does not count what is sold",
        "confirm.lua",
        "zone.move(item.zone, 'reserved', 'confirmed', item[2])",
        "zone.move(item.zone, 'reserved', 'reserved', item[2])",
    ),
    Mutation(
        "sold seats are given back as held",
        "lib/counted.lua",
        "zone.move(of, from, 'available', quantity)",
        "zone.move(of, 'reserved', 'available', quantity)",
    ),
    Mutation(
        "a refused attempt is free",
        "reserve.lua",
        "what the limit is for.\n        buyers.charge(buyer, full_at_ms)",
        "what the limit is for.",
    ),
    Mutation(
        "a collision is answered as a replay",
        "reserve.lua",
        "if record.user ~= request.user then\n        return { status.KEY_COLLISION",
        "if false then\n        return { status.KEY_COLLISION",
    ),
    Mutation(
        "due holds of a zone are not taken back",
        "lib/take_back.lua",
        "if not is_over_limit(sale, request) and is_short(item) then",
        "if false then",
    ),
    Mutation(
        "the buyer's own holds do not come first",
        "lib/take_back.lua",
        "if tonumber(expires_at_ms) <= sale.now_ms then",
        "if false then",
    ),
    Mutation(
        "the bound is one more",
        "lib/take_back.lua",
        "#request.due == due_max then",
        "#request.due == due_max + 1 then",
    ),
    Mutation(
        "a full ledger sells on",
        "reserve.lua",
        "sale.seq >= seq_max",
        "sale.seq > seq_max",
    ),
    Mutation(
        "a paused sale sells on",
        "lib/cell.lua",
        "return sale.status == 'published' and sale.now_ms",
        "return sale.now_ms",
    ),
    Mutation(
        "a price needs no payment", "confirm.lua", "tonumber(record.total_minor) > 0 and not paid", "false"
    ),
    Mutation(
        "anybody may cancel", "cancel.lua", "if not record or record.user ~= user then", "if not record then"
    ),
    Mutation(
        "a confirmed booking may be cancelled",
        "lib/transitions.lua",
        "reserved = 'cancelled', confirmed = status.BOOKING_ENDED",
        "reserved = 'cancelled', confirmed = 'cancelled'",
    ),
    Mutation("an edit takes seats in use", "edit.lua", "if new_available < 0 or ", "if "),
    Mutation(
        "an edit may be skipped", "edit.lua", "elseif sale.version + 1 < version then", "elseif false then"
    ),
    Mutation(
        "a refused edit does not use its version",
        "edit.lua",
        "redis.call('HSET', sale.key, 'version', version)",
        "if outcome == 'applied' then redis.call('HSET', sale.key, 'version', version) end",
    ),
    Mutation(
        "an edit twice counts twice", "edit.lua", "elseif sale.version >= version then", "elseif false then"
    ),
    Mutation(
        "a rebuild forgets the deadlines",
        "build_load.lua",
        "    if record.status == 'reserved' then",
        "    if false then",
    ),
    Mutation(
        "a rebuild forgets the sold units",
        "build_load.lua",
        "if record.status == 'reserved' or record.status == 'confirmed' then",
        "if record.status == 'reserved' then",
    ),
    Mutation(
        "a key lives twice while records are being loaded",
        "reserve.lua",
        "elseif request.fingerprint ~= '' and cell.may_come(sale, request.booking) then",
        "elseif false then",
    ),
    Mutation(
        "what is still to be loaded is unknown to confirm",
        "confirm.lua",
        "if not record and cell.may_come(sale, booking_id) then",
        "if false then",
    ),
    Mutation(
        "what is still to be loaded is unknown to cancel",
        "cancel.lua",
        "if not record and cell.may_come(sale, booking_id) then",
        "if false then",
    ),
    Mutation(
        "what is still to be loaded is unknown to reject",
        "reject.lua",
        "if not record and cell.may_come(sale, booking_id) then",
        "if false then",
    ),
    Mutation("what is loaded overwrites what is newer", "build_rest.lua", "if not text then", "if true then"),
    Mutation("an older loader goes on", "build_rest.lua", "redis.call('GET', KEYS[1]) ~= ARGV[1] or ", ""),
    Mutation(
        "a cell that is opened early says that it is whole",
        "build_open.lua",
        "write(KEYS[2], ARGV[2], { 'seq', 0, 'time_ms', now_ms })",
        "write(KEYS[2], ARGV[2], { 'seq', 0, 'time_ms', now_ms })\nredis.call('HDEL', KEYS[2], 'loaded')",
    ),
    Mutation("an epoch goes on counting", "open.lua", "ARGV[3], 'seq', 0,", "ARGV[3],"),
    Mutation("a stale lift opens", "open.lua", " and fields[3] == ARGV[2]", ""),
    Mutation("anybody opens a fenced cell", "open.lua", " or (fields[5] or '') ~= (ARGV[4] or '')", ""),
    Mutation("an open cell is rebuilt", "build_begin.lua", "if is_open or ", "if "),
    Mutation("a fenced cell sells on", "fence.lua", "redis.call('HDEL', KEYS[1], 'epoch')", ""),
    Mutation(
        "a keyed record is forgotten",
        "lib/booking.lua",
        "change(record, at, record.fingerprint == '')",
        "change(record, at, true)",
    ),
    Mutation(
        "a version stays",
        "lib/booking.lua",
        "    record.version = record.version + 1\n",
        "",
    ),
    Mutation(
        "the second of a call does not see the first one's record",
        "lib/booking.lua",
        "    to[#to + 1] = text\n    texts[key] = text\n",
        "    to[#to + 1] = text\n    texts[key] = texts[key] or text\n",
    ),
    Mutation("a call forgets its records", "lib/hold.lua", "    booking.save()\n", ""),
    Mutation("a rebuild forgets the records", "build_load.lua", "booking.save()\n", ""),
    Mutation(
        "a record without a key stays",
        "lib/booking.lua",
        "redis.call('SET', forgotten[i], forgotten[i + 1], 'EX', ENDED_TTL_S)",
        "redis.call('SET', forgotten[i], forgotten[i + 1])",
    ),
    Mutation(
        "nobody asks for a key's record",
        "lib/booking.lua",
        "        texts[keys[i]] = text\n",
        "        texts[keys[i]] = false\n",
    ),
    Mutation(
        "a buyer's hold is not written down",
        "lib/buyers.lua",
        "    buyer.rest = buyer.rest .. ' ' .. booking_id .. ':' .. expires_at_ms\n",
        "",
    ),
    Mutation(
        "what is sold stays a hold of its buyer",
        "confirm.lua",
        "buyers.release(record.buyer, booking_id, 0)",
        "",
    ),
    Mutation(
        "the second of a call does not see the first one's seats",
        "lib/zone.lua",
        "        by_id[id] = known",
        "",
    ),
    Mutation(
        "the second of a call does not see the first one's units",
        "lib/buyers.lua",
        "        by_user[user] = known",
        "",
    ),
    Mutation(
        "a call forgets where the ledger stands",
        "lib/hold.lua",
        "    deadlines.save(keys.deadlines)\n    cell.save(sale)",
        "    deadlines.save(keys.deadlines)",
    ),
    Mutation("a call forgets its deadlines", "lib/hold.lua", "    deadlines.save(keys.deadlines)", ""),
    Mutation("a call forgets its zones", "lib/hold.lua", "    zone.save()", ""),
    Mutation(
        "nobody asks what a buyer has",
        "lib/buyers.lua",
        "        values[user] = found[i]",
        "        values[user] = false",
    ),
    Mutation(
        "a call forgets its buyers' rate limits",
        "lib/buyers.lua",
        "            rates[without[i]] = full_at_ms",
        "",
    ),
    Mutation("planned seats stay planned", "lib/take_back.lua", "            item.zone.planned = 0", ""),
    Mutation(
        "who gives everything back has a new bucket",
        "lib/buyers.lua",
        "if buyer.full_at_ms > sale.now_ms then",
        "if false then",
    ),
    Mutation(
        "an entry has no place",
        "lib/ledger.lua",
        "    sale.seq = sale.seq + 1",
        "    sale.seq = sale.seq + (sale.seq % 7 == 6 and 2 or 1)",
    ),
)


def planted(mutation: Mutation, folder: Path) -> Path:
    """A copy of lua/ with this fault in it."""
    copy = Path(shutil.copytree(project_root() / "lua", folder / "lua"))
    path = copy / mutation.file
    text = path.read_text()
    assert text.count(mutation.old) == 1, f"{mutation.file} says it {text.count(mutation.old)} times"
    path.write_text(text.replace(mutation.old, mutation.new))
    return copy
