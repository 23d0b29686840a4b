-- The waiting room: who stands where, and how far it has come. A person has a number from when they join; their
-- place is the number, and for who took part in a lottery what the draw made of it. Who calls knows that place:
-- the permutation is nothing for Redis to compute.
local ledger = require('ledger')
local status = require('status')

local queue = {}

local SETTINGS = { 'queue_interval_us', 'queue_passes_max', 'queue_pass_ttl_ms', 'queue_grace_ms', 'queue_paused', 'zones' }
local FIELDS = { 'tail', 'entrants', 'key', 'serving', 'unclaimed', 'gone', 'full_at_us', 'admitted', 'claimed', 'lapsed',
    'basket_milli', 'return_permille', 'moves', 'gaps' }
-- What one person takes, in thousandths of a seat, until admission says what they really do.
local BASKET_MILLI = 2000

-- The waiting room of an open cell; or nothing and the status that refuses.
function queue.load(queue_key, sale)
    if not sale.queue_mode then
        return nil, status.QUEUE_NONE
    end
    local fields = redis.call('HMGET', queue_key, unpack(FIELDS))
    if not fields[1] then
        return nil, status.REBUILDING
    end
    local settings = redis.call('HMGET', sale.key, unpack(SETTINGS))
    return {
        key = queue_key,
        interval_us = tonumber(settings[1]),
        passes_max = tonumber(settings[2]),
        pass_ttl_ms = tonumber(settings[3]),
        grace_ms = tonumber(settings[4]),
        is_paused = settings[5] == '1',
        zones = settings[6],
        tail = tonumber(fields[1]),
        entrants = fields[2] and tonumber(fields[2]) or nil,
        is_drawn = fields[3] and true or false,
        serving = tonumber(fields[4] or 0),
        unclaimed = tonumber(fields[5] or 0),
        gone = tonumber(fields[6] or 0),
        full_at_us = tonumber(fields[7] or 0),
        admitted = tonumber(fields[8] or 0),
        claimed = tonumber(fields[9] or 0),
        lapsed = tonumber(fields[10] or 0),
        basket_milli = math.max(1, tonumber(fields[11] or BASKET_MILLI)),
        return_permille = tonumber(fields[12] or 0),
        moves = fields[13] or '',
        gaps = fields[14] or '',
    }
end

-- Whether anybody may join at this moment. A paused sale may be waited for.
function queue.is_joinable(sale, is_over)
    return (sale.status == 'published' or sale.status == 'paused') and not is_over
        and (sale.queue_mode == 'lottery' or sale.now_ms >= sale.queue_opens_at_ms)
end

-- Whether the time has come at which the entrants of the lottery are those who are there.
function queue.is_freeze_due(sale, room)
    return sale.queue_mode == 'lottery' and not room.entrants and sale.now_ms >= sale.queue_opens_at_ms
end

-- Freezes them where it is due: before anything else of the call, so that who joins in it stands behind.
function queue.freeze_if_due(ledger_key, sale, room)
    if queue.is_freeze_due(sale, room) then
        ledger.append(ledger_key, sale, string.format('["freeze",%.0f,%.0f]', sale.now_ms, room.tail))
        room.entrants = room.tail
        redis.call('HSET', room.key, 'entrants', room.tail)
    end
end

-- The place of a number, nothing where it has none yet; and whether only the caller can know it, and does not.
-- `told` is what the caller believes, 0 for nothing.
function queue.place_of(sale, room, number, told)
    if sale.queue_mode ~= 'lottery' then
        return number, false
    elseif not room.is_drawn then
        return nil, false
    elseif number > room.entrants then
        return number, false
    elseif told > 0 then
        return told, false
    end
    return nil, true
end

-- Whether this number lies in a gap: Redis had lost its end, and whoever was given it can show a signed ticket.
function queue.is_in_gap(room, number)
    for first, last in string.gmatch(room.gaps, '(%d+)-(%d+)') do
        if number >= tonumber(first) and number <= tonumber(last) then
            return true
        end
    end
    return false
end

-- The field that says of a number of a gap that its place has ended since: nobody gets that back.
function queue.ended_field(number)
    return 'x:' .. number
end

-- The 16 bytes of a user id, as `places` has them, from its text.
function queue.raw_of(user)
    local hex = string.gsub(user, '%-', '')
    local raw = string.gsub(hex, '%x%x', function(byte)
        return string.char(tonumber(byte, 16))
    end)
    return raw
end

return queue
