-- What each buyer has, in one hash: user → '<units> <full_at_ms> <booking>:<expires_at_ms> ...'. The units,
-- reserved and confirmed, are what the per-user limit counts; the time is the reserve rate limit's (see gcra);
-- the bookings are those that are still holds. A buyer is read once a call, changed in memory and written once at
-- the end. Who has no units left is deleted, and their rate limit moves to a key of its own, which Redis
-- forgets when it is of no use any more.
local cell = require('cell')
local digits = require('digits')
local gcra = require('gcra')

local buyers = {}

local FIELDS_MAX = 1000

local values = {}
local rates = {}
local by_user = {}
local changed = {}

-- Reads many buyers at once, for `load`; for those without units the keys of their rate limit, too.
function buyers.read_all(key, users, rate_keys)
    local found = redis.call('HMGET', key, unpack(users))
    local without, their_keys = {}, {}
    for i, user in ipairs(users) do
        values[user] = found[i]
        if not found[i] then
            without[#without + 1] = user
            their_keys[#their_keys + 1] = rate_keys[i]
        end
    end
    if #without > 0 then
        for i, full_at_ms in ipairs(redis.call('MGET', unpack(their_keys))) do
            rates[without[i]] = full_at_ms
        end
    end
end

-- The buyer: `units`, `full_at_ms`, and `rest`, their holds, a blank before each.
function buyers.load(key, user)
    local known = by_user[user]
    if not known then
        known = { user = user, units = 0, full_at_ms = tonumber(rates[user] or 0), rest = '' }
        local value = values[user]
        if value == nil then
            value = redis.call('HGET', key, user)
        end
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

-- Counts units of bookings that are sold already for many buyers at once, in the order of `users`, of whom none
-- comes twice: `units` says how many for each.
function buyers.add_sold(key, users, units)
    for first = 1, #users, FIELDS_MAX do
        local last = math.min(first + FIELDS_MAX - 1, #users)
        local fields = {}
        for i, value in ipairs(redis.call('HMGET', key, unpack(users, first, last))) do
            local user = users[first + i - 1]
            local known, rest = string.match(value or '0 0', '^(%d+)(.*)$')
            fields[2 * i - 1] = user
            fields[2 * i] = (known + units[user]) .. rest
        end
        redis.call('HSET', key, unpack(fields))
    end
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
            fields[#fields + 1] = digits.of(buyer.units) .. ' ' .. digits.of(buyer.full_at_ms) .. buyer.rest
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
