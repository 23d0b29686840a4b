-- leave: a person gives their place up. Its number is burnt: who joins again stands at the end.
-- KEYS sale queue places passes spent waves gone ledger
-- ARGV user_bytes user number place: `place` is 0 where the caller knows of no draw
-- RETURNS status at: EPOCH_STALE where there was a draw, and the caller does not know their place
-- FLAGS allow-oom
-- GROUP verb
local status = require('status')
local cell = require('cell')
local gone = require('gone')
local ledger = require('ledger')
local queue = require('queue')
local waves = require('waves')

local raw, user, number, told = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local sale = cell.load(KEYS[1])
if not sale then
    return { status.NOT_OPEN, '0-0' }
end
local room, refused = queue.load(KEYS[2], sale)
if refused then
    return { refused, cell.at(sale) }
end
local place, is_unknown = queue.place_of(sale, room, number, told)
if tonumber(redis.call('HGET', KEYS[3], raw) or 0) ~= number then
    return { status.PLACE_UNKNOWN, cell.at(sale) }
elseif is_unknown then
    return { status.EPOCH_STALE, cell.at(sale) }
end

local is_served = place and place <= room.serving
local has_tried = redis.call('ZSCORE', KEYS[4], user) or redis.call('HGET', KEYS[5], user)
-- The slot that is kept for them, and that nobody will claim any more.
local wave = is_served and not has_tried and not gone.is_gone(KEYS[7], place)
    and waves.find(KEYS[6], room, place, sale.now_ms)

-- Nothing above this line writes; nothing below it can refuse.

queue.freeze_if_due(KEYS[8], sale, room)
ledger.append(KEYS[8], sale, string.format('["leave",%.0f,"%s",%.0f,%.0f]', sale.now_ms, user, number, place or 0))
redis.call('HDEL', KEYS[3], raw)
if gone.mark(KEYS[7], place or number, 1) then
    redis.call('HINCRBY', room.key, 'gone', 1)
end
if queue.is_in_gap(room, number) then
    redis.call('HSET', room.key, queue.ended_field(number), 1)
end
if has_tried then
    redis.call('ZREM', KEYS[4], user)
    redis.call('HDEL', KEYS[5], user)
end
if wave then
    waves.release(KEYS[6], room, wave, 1)
end
cell.save(sale)
return { status.OK, cell.at(sale) }
