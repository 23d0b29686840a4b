-- admit: take back passes that ran out and slots that nobody claimed, and let the next people in: as many as the
-- rate, the passes that are out and the stock allow.
-- KEYS sale queue places passes spent waves gone ledger
-- ARGV basket_milli return_permille lapse_max people_max: what one person takes, in thousandths of a seat, and how
--     many of a thousand reserved seats come back; at most so many passes are taken back, and people let in
-- RETURNS status at serving people out tail: `people` were let in now, `out` is what counts towards the bound then
-- GROUP verb
local status = require('status')
local bound = require('bound')
local cell = require('cell')
local gone = require('gone')
local ledger = require('ledger')
local queue = require('queue')
local waves = require('waves')

local basket_milli, return_permille = tonumber(ARGV[1]), tonumber(ARGV[2])
local lapse_max, people_max = tonumber(ARGV[3]), tonumber(ARGV[4])

-- After a standstill as many may come at once as in this time.
local BURST_US = 1000000
local MOVES_MAX = 64
local MOVES_KEPT_MS = 70000
local MOVES_EVERY_MS = 1000

local sale = cell.load(KEYS[1])
if not sale then
    return { status.NOT_OPEN, '0-0' }
end
local room, refused = queue.load(KEYS[2], sale)
if refused then
    return { refused, cell.at(sale) }
end
local now_ms = sale.now_ms
local is_told = room.basket_milli == basket_milli and room.return_permille == return_permille
room.basket_milli, room.return_permille = math.max(1, basket_milli), return_permille

-- What ends: passes that ran out, with the places of who had them, and waves whose time is over.
local lapsed = redis.call('ZRANGE', KEYS[4], '-inf', string.format('%.0f', now_ms), 'BYSCORE', 'LIMIT', 0, lapse_max)
local raws, texts = {}, {}
for i, user in ipairs(lapsed) do
    raws[i] = queue.raw_of(user)
end
local numbers = #raws > 0 and redis.call('HMGET', KEYS[3], unpack(raws)) or {}
for i, user in ipairs(lapsed) do
    texts[i] = '["' .. user .. '",' .. (numbers[i] or '0') .. ']'
end
local over, ending = waves.due(KEYS[6], room, now_ms)

-- How many may come, and the places in which they stand.
local out = bound.out(KEYS[4], sale, room, ending)
local burst = math.max(1, math.floor(BURST_US / room.interval_us))
local now_us = now_ms * 1000
local full_at_max_us = now_us + burst * room.interval_us
-- Where the organizer has just made it faster, what the slow rate had put off is not waited for.
local full_at_us = math.min(math.max(now_us, room.full_at_us), full_at_max_us)
local by_rate = math.floor((full_at_max_us - full_at_us) / room.interval_us)
local has_order = sale.queue_mode ~= 'lottery' or room.is_drawn
local is_full = sale.ledger_max <= redis.call('XLEN', KEYS[8])
local people, to = 0, room.serving
if cell.is_on_sale(sale) and not room.is_paused and has_order and not is_full and room.tail > room.serving then
    local wanted = math.min(people_max, by_rate, bound.left(room, bound.stock(sale, room), out))
    people, to = gone.walk(KEYS[7], room.serving + 1, room.tail, wanted)
end

-- The points of the last while: when, and how many had been let in by then. The newest is always there, and of
-- the others one a second.
local function moved()
    local points = {}
    for at_ms, admitted in string.gmatch(room.moves, '(%d+):(%d+)') do
        if tonumber(at_ms) > now_ms - MOVES_KEPT_MS then
            points[#points + 1] = { at_ms = tonumber(at_ms), text = at_ms .. ':' .. admitted }
        end
    end
    local before = points[#points - 1]
    if before and now_ms - before.at_ms <= MOVES_EVERY_MS then
        points[#points] = nil
    end
    points[#points + 1] = { text = string.format('%.0f:%.0f', now_ms, room.admitted) }
    local kept = {}
    for i = math.max(1, #points - MOVES_MAX + 1), #points do
        kept[#kept + 1] = points[i].text
    end
    return table.concat(kept, ' ')
end

-- Nothing above this line writes; nothing below it can refuse.

queue.freeze_if_due(KEYS[8], sale, room)
if #lapsed > 0 then
    ledger.append(KEYS[8], sale, string.format('["lapse",%.0f,[%s]]', now_ms, table.concat(texts, ',')))
    redis.call('ZREM', KEYS[4], unpack(lapsed))
    redis.call('HDEL', KEYS[3], unpack(raws))
    -- All that is known of a place ends with it.
    redis.call('HDEL', KEYS[5], unpack(lapsed))
    redis.call('HSET', room.key, 'lapsed', room.lapsed + #lapsed)
    for i = 1, #lapsed do
        if numbers[i] and queue.is_in_gap(room, tonumber(numbers[i])) then
            redis.call('HSET', room.key, queue.ended_field(numbers[i]), 1)
        end
    end
end
for _, wave in ipairs(over) do
    waves.release(KEYS[6], room, wave, wave.slots)
end
if people > 0 then
    ledger.append(KEYS[8], sale, string.format('["admit",%.0f,%.0f,%.0f,%.0f]', now_ms, room.serving + 1, to, people))
    waves.add(KEYS[6], room, room.serving + 1, to, people, now_ms)
    room.admitted = room.admitted + people
    room.serving = to
    redis.call('HSET', room.key, 'serving', to, 'admitted', room.admitted, 'full_at_us',
        string.format('%.0f', full_at_us + people * room.interval_us), 'moves', moved())
end
if not is_told then
    redis.call('HSET', room.key, 'basket_milli', basket_milli, 'return_permille', return_permille)
end
cell.save(sale)
return { status.OK, cell.at(sale), room.serving, people, out + people, room.tail }
