-- The index of deadlines: one sorted set, all scores 0, read in lexical order. Each hold stands in it once
-- for each of its zones, so that the due holds of one zone are found without wading through others':
--     <zone>:<expires_at_ms, 13 digits>:<booking>
-- New ones of a zone stand behind its older ones: inserting goes the same, well-trodden way each time.
-- Changes are gathered and written once at the end of the call.
local deadlines = {}

local BOOKING_LENGTH = 36
local DIGITS = 13
local ARGUMENTS_MAX = 1000

local added = {}
local removed = {}

-- A time of 13 digits is text in full where Lua makes text of it.
local function member(zone_id, expires_at_ms, booking_id)
    return zone_id .. ':' .. expires_at_ms .. ':' .. booking_id
end

-- `items` are { zone_id, ... } each.
function deadlines.add(booking_id, expires_at_ms, items)
    for i = 1, #items do
        added[#added + 1] = '0'
        added[#added + 1] = member(items[i][1], expires_at_ms, booking_id)
    end
end

function deadlines.remove(booking_id, expires_at_ms, items)
    for i = 1, #items do
        removed[#removed + 1] = member(items[i][1], expires_at_ms, booking_id)
    end
end

-- Removes a member that `due` gave and that no hold belongs to.
function deadlines.remove_member(name)
    removed[#removed + 1] = name
end

-- Writes what was added and removed since the last time.
function deadlines.save(key)
    for first = 1, #added, ARGUMENTS_MAX do
        redis.call('ZADD', key, unpack(added, first, math.min(first + ARGUMENTS_MAX - 1, #added)))
    end
    for first = 1, #removed, ARGUMENTS_MAX do
        redis.call('ZREM', key, unpack(removed, first, math.min(first + ARGUMENTS_MAX - 1, #removed)))
    end
    added, removed = {}, {}
end

-- At most `count` members of a zone that are due, the oldest first.
function deadlines.due(key, zone_id, now_ms, count)
    return redis.call('ZRANGE', key, '[' .. zone_id .. ':', '(' .. zone_id .. ':' .. (now_ms + 1),
        'BYLEX', 'LIMIT', 0, count)
end

function deadlines.booking_of(name)
    return string.sub(name, -BOOKING_LENGTH)
end

-- The next deadline of a zone, or nothing.
function deadlines.next(key, zone_id)
    local first = redis.call('ZRANGE', key, '[' .. zone_id .. ':', '(' .. zone_id .. ';', 'BYLEX', 'LIMIT', 0, 1)[1]
    if not first then
        return nil
    end
    local digits_end = #first - BOOKING_LENGTH - 1
    return tonumber(string.sub(first, digits_end - DIGITS + 1, digits_end))
end

return deadlines
