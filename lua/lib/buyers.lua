-- What each buyer has, in one hash: user → '<units> <full_at_ms> <booking>:<expires_at_ms> ...'. The units,
-- reserved and confirmed, are what the per-user limit counts; the time is the reserve rate limit's (see gcra);
-- the bookings are those that are still holds. A buyer is read once a call, changed in memory and written once at
-- the end. Who has no units left is deleted, and their rate limit moves to a key of its own, which Redis
-- forgets when it is of no use any more.
local cell = require('cell')
local gcra = require('gcra')

local buyers = {}

local FIELDS_MAX = 1000

local by_user = {}
local changed = {}

-- The buyer: `units`, `full_at_ms`, and `rest`, their holds, a blank before each.
function buyers.load(key, user)
    local known = by_user[user]
    if not known then
        known = { user = user, units = 0, full_at_ms = 0, rest = '' }
        local value = redis.call('HGET', key, user)
        if value then
            local units, full_at_ms, rest = string.match(value, '^(%d+) (%d+)(.*)$')
            -- Here and not where something is written already.
            assert(units, 'none of our values: ' .. value)
            known.is_stored = true
            known.units, known.full_at_ms, known.rest = tonumber(units), tonumber(full_at_ms), rest
        end
        by_user[user] = known
    end
    return known
end

local function change(buyer)
    if not buyer.is_changed then
        buyer.is_changed = true
        changed[#changed + 1] = buyer
    end
end

-- This buyer's holds, for a loop: booking id and expires_at_ms, both text.
function buyers.holds(buyer)
    return string.gmatch(buyer.rest, '(%S+):(%d+)')
end

-- A new hold.
function buyers.hold(buyer, booking_id, expires_at_ms, quantity)
    buyer.units = buyer.units + quantity
    buyer.rest = buyer.rest .. ' ' .. booking_id .. ':' .. expires_at_ms
    change(buyer)
end

-- A booking that is a hold no longer; `quantity` units go with it, none where it was sold.
function buyers.release(buyer, booking_id, quantity)
    buyer.units = buyer.units - quantity
    local first, last = string.find(buyer.rest, ' ' .. booking_id .. ':', 1, true)
    if first then
        local behind = string.find(buyer.rest, ' ', last, true) or #buyer.rest + 1
        buyer.rest = string.sub(buyer.rest, 1, first - 1) .. string.sub(buyer.rest, behind)
    end
    change(buyer)
end

-- Counts an attempt: the buyer's bucket will be full at that time.
function buyers.charge(buyer, full_at_ms)
    buyer.full_at_ms = full_at_ms
    change(buyer)
end

-- Writes what was changed.
function buyers.save(key, sale)
    local fields, gone = {}, {}
    for _, buyer in ipairs(changed) do
        if buyer.units > 0 then
            fields[#fields + 1] = buyer.user
            fields[#fields + 1] = string.format('%.0f %.0f%s', buyer.units, buyer.full_at_ms, buyer.rest)
        else
            if buyer.is_stored then
                gone[#gone + 1] = buyer.user
            end
            if buyer.full_at_ms > sale.now_ms then
                gcra.charge(cell.rate_key(sale, buyer.user), sale.now_ms, buyer.full_at_ms)
            end
        end
    end
    for first = 1, #fields, FIELDS_MAX do
        redis.call('HSET', key, unpack(fields, first, math.min(first + FIELDS_MAX - 1, #fields)))
    end
    for first = 1, #gone, FIELDS_MAX do
        redis.call('HDEL', key, unpack(gone, first, math.min(first + FIELDS_MAX - 1, #gone)))
    end
end

return buyers
