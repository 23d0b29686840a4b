-- cancel: the buyer gives a reserved booking back.
-- KEYS sale buyers ledger deadlines booking
-- ARGV booking user
-- RETURNS status at record: for OK, REPLAYED, BOOKING_ENDED and BOOKING_EXPIRED
-- FLAGS allow-oom
-- GROUP verb
local status = require('status')
local booking = require('booking')
local cell = require('cell')
local hold = require('hold')
local transitions = require('transitions')

local booking_id, user = ARGV[1], ARGV[2]
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

local refused, next_status = transitions.check('cancel', record, sale.now_ms)
if refused then
    return { refused, cell.at(sale), unpack(booking.answer(record.key)) }
end
hold.prepare(keys, sale, record)

-- Nothing above this line writes; nothing below it can refuse.

hold.give_back(keys, sale, booking_id, record, 'cancel', next_status)
hold.save(keys, sale)
return { status.OK, cell.at(sale), unpack(booking.answer(record.key)) }
