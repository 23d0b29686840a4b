-- confirm: a reserved booking becomes a sold one.
-- KEYS sale buyers ledger deadlines booking
-- ARGV booking user code paid
-- RETURNS status at record: for OK, REPLAYED, BOOKING_ENDED, BOOKING_EXPIRED and PAYMENT_REQUIRED
-- FLAGS allow-oom
-- GROUP verb
local status = require('status')
local booking = require('booking')
local buyers = require('buyers')
local cell = require('cell')
local deadlines = require('deadlines')
local hold = require('hold')
local ledger = require('ledger')
local transitions = require('transitions')
local zone = require('zone')

local booking_id, user, code, paid = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local keys = { buyers = KEYS[2], ledger = KEYS[3], deadlines = KEYS[4] }

local sale = cell.load(KEYS[1])
if not sale then
    return { status.NOT_OPEN, '0-0' }
end
local record = booking.load(KEYS[5])
if not record and cell.may_come(sale, booking_id) then
    return { status.REBUILDING, cell.at(sale) }
elseif not record or record.user ~= user then
    return { status.BOOKING_UNKNOWN, cell.at(sale) }
end

local refused = transitions.check('confirm', record, sale.now_ms)
if not refused and tonumber(record.total_minor) > 0 and not paid then
    refused = status.PAYMENT_REQUIRED
end
if refused then
    return { refused, cell.at(sale), unpack(booking.answer(record.key)) }
end

hold.prepare(keys, sale, record)

-- Nothing above this line writes; nothing below it can refuse.

local at = ledger.append(keys.ledger, sale, string.format('["confirm",%.0f,"%s",%.0f,"%s","%s",%s]',
    sale.now_ms, booking_id, record.version + 1, user, code, record.items))
cell.save(sale)
for _, item in ipairs(record.item_list) do
    zone.move(item.zone, 'reserved', 'confirmed', item[2])
end
buyers.release(record.buyer, booking_id, 0)
booking.confirm(record, at, sale.now_ms, code)
deadlines.remove(booking_id, record.expires_at_ms, record.item_list)
hold.save(keys, sale)

return { status.OK, at, unpack(booking.answer(record.key)) }
