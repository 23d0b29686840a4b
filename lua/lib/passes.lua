-- The passes of the waiting room: the right to try. `passes` has those that are out, user → when they run out;
-- `spent` has for who spent one the booking that it became. A pass is looked at and spent in the step that takes
-- the seats: two requests with one pass are one booking. Spending is written once at the end of the call.
local status = require('status')

local passes = {}

local NONE, BAD = '', '-'

local out = {}
local has_queue = false
local gone, became = {}, {}
local units = 0

-- Whether a reservation needs one at this moment.
function passes.are_needed(sale)
    return sale.queue_mode == 'lottery' or sale.queue_mode and sale.now_ms >= sale.queue_opens_at_ms
end

-- Reads the passes of many requests at once, for `check`.
function passes.read_all(keys, requests)
    local users = {}
    for _, request in ipairs(requests) do
        if request.pass ~= NONE and request.pass ~= BAD then
            users[#users + 1] = request.user
        end
    end
    if #users > 0 then
        for i, expires_at_ms in ipairs(redis.call('ZMSCORE', keys.passes, unpack(users))) do
            out[users[i]] = tonumber(expires_at_ms or 0)
        end
        has_queue = redis.call('EXISTS', keys.queue) == 1
    end
end

-- The status that refuses the request, or nothing. The deadline decides, not who sweeps.
function passes.check(sale, request)
    if request.pass == NONE then
        return status.PASS_REQUIRED
    end
    local expires_at_ms = out[request.user] or 0
    if tonumber(request.pass) ~= expires_at_ms or expires_at_ms <= sale.now_ms then
        return status.PASS_INVALID
    end
    return nil
end

-- The request has taken its seats, and its pass is spent.
function passes.spend(request)
    out[request.user] = nil
    gone[#gone + 1] = request.user
    became[#became + 1] = request.user
    became[#became + 1] = request.booking
    units = units + request.quantity
end

-- Writes what was spent.
function passes.save(keys)
    if #gone == 0 then
        return
    end
    redis.call('ZREM', keys.passes, unpack(gone))
    redis.call('HSET', keys.spent, unpack(became))
    -- Where the waiting room itself is still being brought back, its totals come with it.
    if has_queue then
        redis.call('HINCRBY', keys.queue, 'spent', #gone)
        redis.call('HINCRBY', keys.queue, 'units', units)
    end
end

return passes
