-- The index of deadlines: one sorted set, all scores 0, read in lexical order. Each hold stands in it
-- once for each of its zones and once for its buyer, so that the due holds of one zone, or of one
-- buyer, are found without wading through the others':
--     z:<zone>:<expires_at_ms, 13 digits>:<booking>        b:<user>:<expires_at_ms, 13 digits>:<booking>
local deadlines = {}

local BOOKING_LENGTH = 36
local DIGITS = 13

local function members(booking_id, user, expires_at_ms, items)
    local tail = string.format(':%013.0f:', expires_at_ms) .. booking_id
    local list = { 'b:' .. user .. tail }
    for i = 1, #items do
        list[i + 1] = 'z:' .. items[i][1] .. tail
    end
    return list
end

function deadlines.add(key, booking_id, user, expires_at_ms, items)
    local arguments = {}
    for _, member in ipairs(members(booking_id, user, expires_at_ms, items)) do
        arguments[#arguments + 1] = 0
        arguments[#arguments + 1] = member
    end
    redis.call('ZADD', key, unpack(arguments))
end

function deadlines.remove(key, booking_id, user, expires_at_ms, items)
    redis.call('ZREM', key, unpack(members(booking_id, user, expires_at_ms, items)))
end

-- At most `count` members that are due under 'z:<zone>' or 'b:<user>', the oldest first.
function deadlines.due(key, owner, now_ms, count)
    return redis.call('ZRANGE', key, '[' .. owner .. ':', string.format('(%s:%013.0f', owner, now_ms + 1),
        'BYLEX', 'LIMIT', 0, count)
end

function deadlines.booking_of(member)
    return string.sub(member, -BOOKING_LENGTH)
end

-- The next deadline under that owner, or nothing.
function deadlines.next(key, owner)
    local first = redis.call('ZRANGE', key, '[' .. owner .. ':', '(' .. owner .. ';', 'BYLEX', 'LIMIT', 0, 1)[1]
    if not first then
        return nil
    end
    local digits_end = #first - BOOKING_LENGTH - 1
    return tonumber(string.sub(first, digits_end - DIGITS + 1, digits_end))
end

return deadlines
