-- reject: give back the seats of a booking that Postgres refused.
-- KEYS sale buyers ledger deadlines booking
-- ARGV booking
-- RETURNS status at: REPLAYED where it holds nothing any more
-- FLAGS allow-oom
-- GROUP verb
local status = require('status')
local booking = require('booking')
local cell = require('cell')
local hold = require('hold')
local transitions = require('transitions')

local booking_id = ARGV[1]
local keys = { buyers = KEYS[2], ledger = KEYS[3], deadlines = KEYS[4] }

local sale = cell.load(KEYS[1])
if not sale then
    return { status.NOT_OPEN, '0-0' }
end
local record = booking.load(KEYS[5])
if not record and cell.may_come(sale, booking_id) then
    return { status.REBUILDING, cell.at(sale) }
elseif not record then
    return { status.BOOKING_UNKNOWN, cell.at(sale) }
end
local refused, next_status = transitions.check('reject', record, sale.now_ms)
if refused then
    return { refused, cell.at(sale) }
end
hold.prepare(keys, sale, record)

-- Nothing above this line writes; nothing below it can refuse.

hold.give_back(keys, sale, booking_id, record, 'reject', next_status)
hold.save(keys, sale)
return { status.OK, cell.at(sale) }
