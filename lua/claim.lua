-- claim: a person who is served gets their pass. For a while a slot is kept for them; who comes later, or again after
-- a booking that ended without a sale, gets one as long as there is room.
-- KEYS sale queue places passes spent waves gone ledger
-- ARGV user_bytes user number place: `place` is 0 where the caller knows of no draw
-- RETURNS status at expires_at_ms: OK a new one, REPLAYED the one that is out; SALE_NOT_OPEN: status start end now;
--     EPOCH_STALE where there was a draw, and the caller does not know their place
-- GROUP verb
local status = require('status')
local booking = require('booking')
local bound = require('bound')
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
local now_ms = sale.now_ms
local out_until_ms = tonumber(redis.call('ZSCORE', KEYS[4], user) or 0)
if out_until_ms > now_ms then
    return { status.REPLAYED, cell.at(sale), out_until_ms }
end

-- The booking that their last pass became.
local spent_on = redis.call('HGET', KEYS[5], user)
local record = spent_on and booking.load(cell.booking_key(sale, spent_on))
local is_living = record and (record.status == 'confirmed' or booking.is_held(record) and not booking.is_due(record, now_ms))
local place, is_unknown = queue.place_of(sale, room, number, told)

if spent_on and not record and cell.may_come(sale, spent_on) then
    return { status.REBUILDING, cell.at(sale) }
elseif not cell.is_on_sale(sale) then
    return { status.SALE_NOT_OPEN, cell.at(sale), sale.status, sale.sale_start_at_ms, sale.sale_end_at_ms, now_ms }
elseif sale.ledger_max <= redis.call('XLEN', KEYS[8]) then
    return { status.LEDGER_FULL, cell.at(sale) }
elseif tonumber(redis.call('HGET', KEYS[3], raw) or 0) ~= number or out_until_ms > 0 then
    -- A pass that ran out ended the place, also where nobody has swept it yet.
    return { status.PLACE_UNKNOWN, cell.at(sale) }
elseif is_unknown then
    return { status.EPOCH_STALE, cell.at(sale) }
elseif not place or place > room.serving then
    return { status.NOT_SERVED, cell.at(sale) }
elseif is_living then
    return { status.PASS_SPENT, cell.at(sale) }
end

local wave = not spent_on and not gone.is_gone(KEYS[7], place) and waves.find(KEYS[6], room, place, now_ms)
if not wave then
    local _, ending = waves.due(KEYS[6], room, now_ms)
    local out = bound.out(KEYS[4], sale, room, ending)
    -- Where the passes are all out, nobody need look at a thousand zones.
    if out >= room.passes_max or bound.left(room, bound.stock(sale, room), out) < 1 then
        return { status.NO_ROOM, cell.at(sale) }
    end
end

-- Nothing above this line writes; nothing below it can refuse.

local expires_at_ms = now_ms + room.pass_ttl_ms
ledger.append(KEYS[8], sale, string.format('["claim",%.0f,"%s",%.0f,%.0f,%.0f]', now_ms, user, number, place,
    expires_at_ms))
redis.call('ZADD', KEYS[4], expires_at_ms, user)
if spent_on then
    redis.call('HDEL', KEYS[5], user)
end
if wave then
    waves.release(KEYS[6], room, wave, 1)
end
redis.call('HINCRBY', room.key, 'claimed', 1)
cell.save(sale)
return { status.OK, cell.at(sale), expires_at_ms }
