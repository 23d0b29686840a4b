-- Giving back what a booking holds: what expire, cancel, reject and a reserve in need have in common.
local booking = require('booking')
local cell = require('cell')
local deadlines = require('deadlines')
local kinds = require('kinds')
local ledger = require('ledger')

local hold = {}

-- Ends a reserved or confirmed booking: the ledger first, then seats, buyer, record and deadline.
-- `verb` is the ledger's word for it, `status` what the record says afterwards.
function hold.give_back(keys, sale, booking_id, record, verb, status)
    local at = ledger.append(keys.ledger, sale, string.format('["%s",%.0f,"%s",%.0f,"%s","%s",%s]',
        verb, sale.now_ms, booking_id, record.version + 1, record.user, record.status, record.items))
    local items = cjson.decode(record.items)
    for _, item in ipairs(items) do
        local zone_key = cell.zone_key(sale, item[1])
        kinds[redis.call('HGET', zone_key, 'kind')].give(zone_key, item[2], record.status)
    end
    if redis.call('HINCRBY', keys.buyers, record.user, -record.quantity) == 0 then
        redis.call('HDEL', keys.buyers, record.user)
    end
    booking.finish(record, status, at, sale.now_ms)
    if record.status == 'reserved' then
        deadlines.remove(keys.deadlines, booking_id, record.user, record.expires_at_ms, items)
    end
end

return hold
