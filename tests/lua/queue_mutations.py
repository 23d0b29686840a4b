"""Faults of the waiting room, each planted in a copy of lua/: what its state machine must find."""

from tests.lua.mutations import Mutation

MUTATIONS = (
    Mutation(
        "the pass is not checked",
        "reserve.lua",
        "local refused = is_pass_needed and passes.check(sale, request)",
        "local refused = nil",
    ),
    Mutation(
        "the bound is not checked",
        "lib/bound.lua",
        "    return math.max(0, people_max - out)",
        "    return people_max",
    ),
    Mutation(
        "a pass of somebody else will do",
        "lib/passes.lua",
        "tonumber(request.pass) ~= expires_at_ms or expires_at_ms <= sale.now_ms",
        "expires_at_ms <= sale.now_ms and false",
    ),
    Mutation(
        "a pass that has run out is good",
        "lib/passes.lua",
        " or expires_at_ms <= sale.now_ms",
        "",
    ),
    Mutation("a pass stays", "lib/passes.lua", "    redis.call('ZREM', keys.passes, unpack(gone))", ""),
    Mutation(
        "nobody writes down what a pass became",
        "lib/passes.lua",
        "    redis.call('HSET', keys.spent, unpack(became))",
        "",
    ),
    Mutation("spending is not counted", "lib/passes.lua", "'units', units", "'units', #gone"),
    Mutation("the ledger does not tell of the pass", "reserve.lua", "is_pass_needed and ',1]' or ']'", "']'"),
    Mutation(
        "an open queue needs no pass",
        "lib/passes.lua",
        "sale.queue_mode and sale.now_ms",
        "sale.queue_mode and -sale.now_ms",
    ),
    Mutation("a lottery needs no pass", "lib/passes.lua", "sale.queue_mode == 'lottery' or ", ""),
    Mutation(
        "who joins in one call gets one number",
        "join.lua",
        "person.number = room.tail + #new",
        "person.number = room.tail + 1",
    ),
    Mutation(
        "one person has two numbers", "join.lua", "        has_joined[person.raw] = person.number\n", ""
    ),
    Mutation(
        "the freeze is a moment late",
        "lib/queue.lua",
        "and not room.entrants and sale.now_ms >= sale.queue_opens_at_ms",
        "and not room.entrants and sale.now_ms > sale.queue_opens_at_ms",
    ),
    Mutation(
        "who joins is frozen with them",
        "lib/queue.lua",
        "    room.entrants = room.tail\n        redis.call('HSET', room.key, 'entrants', room.tail)",
        "    room.entrants = room.tail + 1\n        redis.call('HSET', room.key, 'entrants', room.tail + 1)",
    ),
    Mutation(
        "an open queue opens too early",
        "lib/queue.lua",
        "(sale.queue_mode == 'lottery' or sale.now_ms >= sale.queue_opens_at_ms)",
        "true",
    ),
    Mutation(
        "who leaves stays in line",
        "leave.lua",
        "if gone.mark(KEYS[7], place or number, 1) then",
        "if false then",
    ),
    Mutation("who leaves keeps the pass", "leave.lua", "    redis.call('ZREM', KEYS[4], user)\n", ""),
    Mutation("who leaves keeps the slot", "leave.lua", "if wave then", "if false then"),
    Mutation(
        "who leaves with a pass gives a slot up too",
        "leave.lua",
        "is_served and not has_tried and ",
        "is_served and ",
    ),
    Mutation(
        "anybody's number may be left",
        "leave.lua",
        "tonumber(redis.call('HGET', KEYS[3], raw) or 0) ~= number",
        "false",
    ),
    Mutation(
        "anybody's number is good for a pass",
        "claim.lua",
        "tonumber(redis.call('HGET', KEYS[3], raw) or 0) ~= number or ",
        "",
    ),
    Mutation("who waits gets a pass", "claim.lua", "not place or place > room.serving", "not place"),
    Mutation("a pass that ran out is given again", "claim.lua", " or out_until_ms > 0 then", " then"),
    Mutation("who has booked gets another pass", "claim.lua", "elseif is_living then", "elseif false then"),
    Mutation(
        "a booking that ended keeps its pass", "claim.lua", "elseif is_living then", "elseif record then"
    ),
    Mutation(
        "who comes back takes a slot that is kept for others",
        "claim.lua",
        "local wave = not spent_on and ",
        "local wave = ",
    ),
    Mutation(
        "a claim leaves its slot behind",
        "claim.lua",
        "    waves.release(KEYS[6], room, wave, 1)",
        "    cell.save(sale)",
    ),
    Mutation(
        "who is late always finds room",
        "claim.lua",
        "if out >= room.passes_max or bound.left(room, bound.stock(sale, room), out) < 1 then",
        "if out < 0 then",
    ),
    Mutation("a claim does not replay", "claim.lua", "if out_until_ms > now_ms then", "if false then"),
    Mutation(
        "a slot is kept a moment too long",
        "lib/waves.lua",
        "wave.served_at_ms + room.grace_ms <= now_ms",
        "wave.served_at_ms + room.grace_ms < now_ms",
    ),
    Mutation("slots that are kept do not count", "lib/bound.lua", " + room.unclaimed - ending", ""),
    Mutation("passes that ran out count", "lib/bound.lua", "string.format('(%.0f', sale.now_ms)", "'-inf'"),
    Mutation(
        "what is expected back does not count",
        "lib/bound.lua",
        " + stock.reserved * room.return_permille",
        "",
    ),
    Mutation(
        "the last seat is for nobody",
        "lib/bound.lua",
        "if out == 0 and stock.available > 0 then",
        "if false then",
    ),
    Mutation(
        "the rate does not matter", "admit.lua", "math.min(people_max, by_rate, ", "math.min(people_max, "
    ),
    Mutation("a paused queue goes on", "admit.lua", " and not room.is_paused", ""),
    Mutation("a sale that is not open lets people in", "admit.lua", "if cell.is_on_sale(sale) and ", "if "),
    Mutation("a lottery begins before its draw", "admit.lua", " and has_order", ""),
    Mutation("what ran out is not taken back", "admit.lua", "if #lapsed > 0 then", "if false then"),
    Mutation(
        "a lapsed pass keeps the place", "admit.lua", "    redis.call('HDEL', KEYS[3], unpack(raws))\n", ""
    ),
    Mutation(
        "who was let in is let in again",
        "admit.lua",
        "gone.walk(KEYS[7], room.serving + 1, ",
        "gone.walk(KEYS[7], math.max(1, room.serving), ",
    ),
    Mutation(
        "who has gone is let in",
        "lib/gone.lua",
        "if math.floor(byte / 2 ^ (7 - bit)) % 2 == 0 then",
        "if true then",
    ),
    Mutation("a stale draw is taken", "draw.lua", " or redis.call('BITCOUNT', KEYS[3]) ~= gone_count", ""),
    Mutation("a draw forgets who has left", "draw.lua", "    redis.call('SET', KEYS[3], bitmap)", ""),
)
