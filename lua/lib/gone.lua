-- Places that nobody stands in any more, as one bitmap: bit `place - 1`, before the draw of a lottery the number's.
local gone = {}

local CHUNK_BYTES = 128

-- Whether this one is gone.
function gone.is_gone(key, place)
    return redis.call('GETBIT', key, place - 1) == 1
end

-- Marks one as gone (1) or as living (0); whether that changed anything.
function gone.mark(key, place, bit)
    return redis.call('SETBIT', key, place - 1, bit) ~= bit
end

-- Marks all from one to another as gone: places that nobody has been given.
function gone.mark_all(key, first, last)
    while first <= last and (first - 1) % 8 > 0 do
        redis.call('SETBIT', key, first - 1, 1)
        first = first + 1
    end
    local bytes = math.floor((last - first + 1) / 8)
    if bytes > 0 then
        redis.call('SETRANGE', key, (first - 1) / 8, string.rep('\255', bytes))
    end
    for place = first + 8 * bytes, last do
        redis.call('SETBIT', key, place - 1, 1)
    end
end

-- Walks from the place `first` on, at most to `last`, until `count` living ones are found: how many there are, and
-- the last of them (`first - 1` where there is none). Costs as much as there are living ones, however many are gone
-- between them.
function gone.walk(key, first, last, count)
    local people, to, place = 0, first - 1, first
    local chunk, begin = '', nil
    while place <= last and people < count do
        local index, bit = math.floor((place - 1) / 8), (place - 1) % 8
        if not begin or index >= begin + CHUNK_BYTES then
            begin = index
            chunk = redis.call('GETRANGE', key, begin, begin + CHUNK_BYTES - 1)
        end
        local byte = string.byte(chunk, index - begin + 1) or 0
        if byte == 255 and bit == 0 then
            place = redis.call('BITPOS', key, 0, index) + 1
        else
            if math.floor(byte / 2 ^ (7 - bit)) % 2 == 0 then
                people, to = people + 1, place
            end
            place = place + 1
        end
    end
    return people, to
end

local ones = {}
for byte = 0, 255 do
    local count, rest = 0, byte
    while rest > 0 do
        count, rest = count + rest % 2, math.floor(rest / 2)
    end
    ones[byte] = count
end

-- The bits up to `count` of one bitmap, and those behind them of another.
function gone.joined(left, right, count)
    local whole, rest = math.floor(count / 8), count % 8
    local length = math.max(whole + (rest > 0 and 1 or 0), #right)
    left = left .. string.rep('\0', length - #left)
    right = right .. string.rep('\0', length - #right)
    local middle = ''
    if rest > 0 then
        local unit = 2 ^ (8 - rest)
        local high, low = string.byte(left, whole + 1), string.byte(right, whole + 1)
        middle = string.char(high - high % unit + low % unit)
    end
    return string.sub(left, 1, whole) .. middle .. string.sub(right, whole + #middle + 1)
end

-- How many bits of these are set.
function gone.count(bitmap)
    local count = 0
    for i = 1, #bitmap do
        count = count + ones[string.byte(bitmap, i)]
    end
    return count
end

return gone
