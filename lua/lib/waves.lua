-- The waves in which people were let in. For each a slot is kept for everybody in it, for a while: `w:<to>` in the
-- queue has how many are left, `unclaimed` the sum over all waves. A wave without a slot is not kept.
local waves = {}

local DUE_MAX = 64

local function field(wave)
    return string.format('w:%.0f', wave.to)
end

local function parse(member)
    local from, to, people, served_at_ms = string.match(member, '^(%d+):(%d+):(%d+):(%d+)$')
    return {
        member = member, from = tonumber(from), to = tonumber(to), people = tonumber(people),
        served_at_ms = tonumber(served_at_ms),
    }
end

local function is_over(wave, room, now_ms)
    return wave.served_at_ms + room.grace_ms <= now_ms
end

local function slots_of(room, wave)
    return tonumber(redis.call('HGET', room.key, field(wave)) or 0)
end

-- The wave that still keeps a slot for whoever stands in this place, or nothing.
function waves.find(key, room, place, now_ms)
    local member = redis.call('ZRANGE', key, place, '+inf', 'BYSCORE', 'LIMIT', 0, 1)[1]
    local wave = member and parse(member)
    if not wave or place < wave.from or is_over(wave, room, now_ms) then
        return nil
    end
    wave.slots = slots_of(room, wave)
    return wave.slots > 0 and wave or nil
end

-- The waves whose time is over, the oldest first, a bounded number; and how many slots they kept.
function waves.due(key, room, now_ms)
    local due, slots = {}, 0
    for _, member in ipairs(redis.call('ZRANGE', key, 0, DUE_MAX - 1)) do
        local wave = parse(member)
        if not is_over(wave, room, now_ms) then
            break
        end
        wave.slots = slots_of(room, wave)
        due[#due + 1] = wave
        slots = slots + wave.slots
    end
    return due, slots
end

-- `slots` of a wave are kept no longer; one that has no more is forgotten.
function waves.release(key, room, wave, slots)
    room.unclaimed = room.unclaimed - slots
    redis.call('HSET', room.key, 'unclaimed', room.unclaimed)
    wave.slots = wave.slots - slots
    if wave.slots > 0 then
        redis.call('HSET', room.key, field(wave), wave.slots)
    else
        redis.call('HDEL', room.key, field(wave))
        redis.call('ZREM', key, wave.member)
    end
end

-- A new wave: `people` living ones in the places `from` to `to`.
function waves.add(key, room, from, to, people, now_ms)
    redis.call('ZADD', key, to, string.format('%.0f:%.0f:%.0f:%.0f', from, to, people, now_ms))
    room.unclaimed = room.unclaimed + people
    redis.call('HSET', room.key, field({ to = to }), people, 'unclaimed', room.unclaimed)
end

return waves
