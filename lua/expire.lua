-- expire: take back holds whose deadline has passed, a bounded number.
-- KEYS sale buyers ledger deadlines
-- ARGV due_max
-- RETURNS status at taken_back next_due_at_ms now_ms hold_ttl_ms: next_due_at_ms is 0 where no hold is left
-- FLAGS allow-oom
-- GROUP verb
local status = require('status')
local booking = require('booking')
local cell = require('cell')
local deadlines = require('deadlines')
local hold = require('hold')

local due_max = tonumber(ARGV[1])
local keys = { buyers = KEYS[2], ledger = KEYS[3], deadlines = KEYS[4] }

local sale = cell.load(KEYS[1])
if not sale then
    return { status.NOT_OPEN, '0-0' }
end

local zone_ids = {}
for zone_id in string.gmatch(redis.call('HGET', sale.key, 'zones'), '%S+') do
    zone_ids[#zone_ids + 1] = zone_id
end

local due = {}
local is_planned = {}
for _, zone_id in ipairs(zone_ids) do
    for _, member in ipairs(deadlines.due(keys.deadlines, zone_id, sale.now_ms, due_max - #due)) do
        local id = deadlines.booking_of(member)
        if not is_planned[id] then
            is_planned[id] = true
            local record = booking.load(cell.booking_key(sale, id))
            if booking.is_held(record) then
                hold.prepare(keys, sale, record)
            end
            due[#due + 1] = { id = id, member = member, record = record }
        end
    end
    if #due >= due_max then
        break
    end
end

-- Nothing above this line writes; nothing below it can refuse.

local taken_back = 0
for _, each in ipairs(due) do
    if booking.is_held(each.record) then
        hold.give_back(keys, sale, each.id, each.record, 'expire', 'expired')
        taken_back = taken_back + 1
    else
        -- A deadline without its hold would stand in the way of those behind it for ever.
        deadlines.remove_member(each.member)
    end
end
if #due > 0 then
    hold.save(keys, sale)
end

local next_due_at_ms = 0
for _, zone_id in ipairs(zone_ids) do
    local candidate = deadlines.next(keys.deadlines, zone_id)
    if candidate and (next_due_at_ms == 0 or candidate < next_due_at_ms) then
        next_due_at_ms = candidate
    end
end
return { status.OK, cell.at(sale), taken_back, next_due_at_ms, sale.now_ms, sale.hold_ttl_ms }
