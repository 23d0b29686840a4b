-- Giving back what a booking holds: what expire, cancel, reject and a reserve in need have in common.
local booking = require('booking')
local buyers = require('buyers')
local cell = require('cell')
local deadlines = require('deadlines')
local kinds = require('kinds')
local ledger = require('ledger')
local zone = require('zone')

local hold = {}

-- Reads all that giving back a loaded record will need, so that nothing can fail once it has begun.
function hold.prepare(keys, sale, record)
    record.item_list = cjson.decode(record.items)
    record.buyer = buyers.load(keys.buyers, record.user)
    if record.buyer.full_at_ms > sale.now_ms then
        -- Who will have no units left gets a key for their rate limit. Where the cell is just leaving this node, key
        -- by key, no new one can be made, and asking for it says so.
        redis.call('EXISTS', cell.rate_key(sale, record.user))
    end
    for _, item in ipairs(record.item_list) do
        item.zone = zone.load(sale, item[1])
        item.kind = kinds[item.zone.kind]
    end
    return record
end

-- Ends a prepared reserved or confirmed booking: the ledger first, then seats, buyer, record and deadline.
-- `verb` is the ledger's word for it, `status` what the record says afterwards.
function hold.give_back(keys, sale, booking_id, record, verb, status)
    local at = ledger.append(keys.ledger, sale, string.format('["%s",%.0f,"%s",%.0f,"%s","%s",%s]',
        verb, sale.now_ms, booking_id, record.version + 1, record.user, record.status, record.items))
    cell.save(sale)
    for _, item in ipairs(record.item_list) do
        item.kind.give(item.zone, item[2], record.status)
    end
    buyers.release(record.buyer, booking_id, record.quantity)
    if record.status == 'reserved' then
        deadlines.remove(booking_id, record.expires_at_ms, record.item_list)
    end
    booking.finish(record, status, at, sale.now_ms)
end

-- Writes what all changes of this call have made of the cell: the last step of every verb.
function hold.save(keys, sale)
    zone.save()
    buyers.save(keys.buyers, sale)
    booking.save()
    deadlines.save(keys.deadlines)
    cell.save(sale)
end

return hold
