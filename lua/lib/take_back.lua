-- Before a reserve is refused for the limit or for stock it takes back holds that are due, the buyer's own
-- first, a bounded number. That is planned while nothing is written, and carried out afterwards.
local booking = require('booking')
local buyers = require('buyers')
local cell = require('cell')
local deadlines = require('deadlines')
local hold = require('hold')
local kinds = require('kinds')

local take_back = {}

-- The units that the buyer will have when what is planned is done.
function take_back.held(request)
    return request.buyer.units - (request.returning or 0)
end

local function is_over_limit(sale, request)
    return take_back.held(request) + request.quantity > sale.max_per_user
end

local function is_short(item)
    return not kinds[item.zone.kind].find(item.zone, item.quantity)
end

local function first_short(items)
    for _, item in ipairs(items) do
        if is_short(item) then
            return item
        end
    end
end

-- Plans to take back one hold. False where the bound is reached before it.
local function plan_one(keys, sale, request, id, due_max)
    if request.is_planned[id] then
        return true
    elseif #request.due == due_max then
        request.more_due = true
        return false
    end
    request.is_planned[id] = true
    local record = booking.load(cell.booking_key(sale, id))
    if booking.is_held(record) then
        hold.prepare(keys, sale, record)
        request.due[#request.due + 1] = { id = id, record = record }
        if record.user == request.user then
            request.returning = request.returning + record.quantity
        end
        for _, item in ipairs(record.item_list) do
            item.zone.planned = item.zone.planned + item[2]
        end
    end
    return true
end

-- The ids of this buyer's holds that are due, the oldest first.
local function due_of_buyer(sale, buyer)
    local due = {}
    for id, expires_at_ms in buyers.holds(buyer) do
        if tonumber(expires_at_ms) <= sale.now_ms then
            due[#due + 1] = { id = id, expires_at_ms = expires_at_ms }
        end
    end
    table.sort(due, function(a, b)
        return a.expires_at_ms < b.expires_at_ms or (a.expires_at_ms == b.expires_at_ms and a.id < b.id)
    end)
    return due
end

-- Whether the buyer would be over the limit, the first item that is short (or nothing), and whether more
-- holds are due than were planned.
function take_back.plan(keys, sale, request, due_max)
    if not is_over_limit(sale, request) and not first_short(request.items) then
        return false, nil, false
    end
    request.due, request.is_planned, request.returning, request.more_due = {}, {}, 0, false
    for _, own in ipairs(due_of_buyer(sale, request.buyer)) do
        if not (is_over_limit(sale, request) or first_short(request.items)) then
            break
        elseif not plan_one(keys, sale, request, own.id, due_max) then
            break
        end
    end
    for _, item in ipairs(request.items) do
        if not is_over_limit(sale, request) and is_short(item) then
            for _, name in ipairs(deadlines.due(keys.deadlines, item.zone.id, sale.now_ms, due_max + 1)) do
                if not is_short(item) or not plan_one(keys, sale, request, deadlines.booking_of(name), due_max) then
                    break
                end
            end
        end
    end
    return is_over_limit(sale, request), first_short(request.items), request.more_due
end

-- Takes back what was planned, if anything was; how many holds.
function take_back.carry_out(keys, sale, request)
    if not request.due then
        return 0
    end
    for _, each in ipairs(request.due) do
        for _, item in ipairs(each.record.item_list) do
            item.zone.planned = 0
        end
        hold.give_back(keys, sale, each.id, each.record, 'expire', 'expired')
    end
    -- The next request of this call asks the index again.
    deadlines.save(keys.deadlines)
    return #request.due
end

return take_back
