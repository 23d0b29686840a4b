-- reserve: take 1-8 items of one event for one buyer, all or none.
-- KEYS sale buyers ledger deadlines rate booking zone+
-- ARGV booking user fingerprint rate_interval_ms rate_burst due_max (zone show quantity)+
-- RETURNS status at ...: OK, REPLAYED: the record; SALE_NOT_OPEN: status start end now;
--     RATE_LIMITED: wait_ms; ZONE_UNKNOWN, SHOW_MISMATCH: zone; OVER_ORDER_LIMIT: zone requested limit;
--     OVER_USER_LIMIT: requested held limit; INSUFFICIENT_STOCK: zone requested available
-- GROUP verb
local status = require('status')
local booking = require('booking')
local cell = require('cell')
local deadlines = require('deadlines')
local gcra = require('gcra')
local hold = require('hold')
local kinds = require('kinds')
local ledger = require('ledger')

local FIXED_KEYS = 6
local FIXED_ARGS = 6

local booking_id, user, fingerprint = ARGV[1], ARGV[2], ARGV[3]
local due_max = tonumber(ARGV[6])
local keys = { buyers = KEYS[2], ledger = KEYS[3], deadlines = KEYS[4] }

local sale = cell.load(KEYS[1])
if not sale then
    return { status.NOT_OPEN, '0-0' }
end

if fingerprint ~= '' then
    local record = booking.load(KEYS[6])
    if record then
        if record.user ~= user then
            return { status.KEY_COLLISION, cell.at(sale) }
        elseif record.fingerprint ~= fingerprint then
            return { status.KEY_REUSED, cell.at(sale) }
        end
        return { status.REPLAYED, cell.at(sale), unpack(record.fields) }
    end
end

local now_ms = sale.now_ms
local ended = sale.sale_end_at_ms > 0 and now_ms >= sale.sale_end_at_ms
if sale.status ~= 'published' or now_ms < sale.sale_start_at_ms or ended then
    return { status.SALE_NOT_OPEN, cell.at(sale), sale.status, sale.sale_start_at_ms, sale.sale_end_at_ms, now_ms }
end

local full_at_ms, wait_ms = gcra.check(KEYS[5], now_ms, tonumber(ARGV[4]), tonumber(ARGV[5]))
if not full_at_ms then
    return { status.RATE_LIMITED, cell.at(sale), wait_ms }
end

-- The items as asked for, in the order of the request, with their zones as they stand.
local wanted = {}
local zones = {}
local quantity = 0
local function load_items()
    for i = 1, #KEYS - FIXED_KEYS do
        local first = FIXED_ARGS + 3 * (i - 1)
        local item = {
            zone_id = ARGV[first + 1], show = ARGV[first + 2], quantity = tonumber(ARGV[first + 3]),
            zone_key = KEYS[FIXED_KEYS + i],
        }
        local fields = redis.call('HMGET', item.zone_key, 'show', 'kind', 'price_minor', 'max_per_order', 'available')
        if not fields[1] then
            return { status.ZONE_UNKNOWN, '', item.zone_id }
        end
        item.zone = {
            show = fields[1], kind = kinds[fields[2]], price_minor = tonumber(fields[3]),
            max_per_order = tonumber(fields[4]), available = tonumber(fields[5]),
        }
        wanted[i] = item
        zones[item.zone_id] = item.zone
        quantity = quantity + item.quantity
    end
end

local function check_order()
    for _, item in ipairs(wanted) do
        if item.show ~= '' and item.show ~= item.zone.show then
            return { status.SHOW_MISMATCH, '', item.zone_id }
        end
    end
    for _, item in ipairs(wanted) do
        if item.quantity > item.zone.max_per_order then
            return { status.OVER_ORDER_LIMIT, '', item.zone_id, item.quantity, item.zone.max_per_order }
        end
    end
end

local held
local function over_limit()
    return held + quantity > sale.max_per_user
end

local function is_short(item)
    return not item.zone.kind.find(item.zone, item.quantity)
end

local function first_short()
    for _, item in ipairs(wanted) do
        if is_short(item) then
            return item
        end
    end
end

-- Due holds that will be taken back, and what the counters will then say. Nothing is written yet.
local due = {}
local is_planned = {}
local more_due = false
local function plan_one(id, record)
    due[#due + 1] = { id = id, record = record }
    if record.user == user then
        held = held - record.quantity
    end
    for _, item in ipairs(cjson.decode(record.items)) do
        if zones[item[1]] then
            zones[item[1]].available = zones[item[1]].available + item[2]
        end
    end
end

local function plan_take_back(owner, is_needed)
    for _, member in ipairs(deadlines.due(keys.deadlines, owner, now_ms, due_max + 1)) do
        local id = deadlines.booking_of(member)
        if not is_needed() then
            return
        elseif not is_planned[id] and #due == due_max then
            more_due = true
            return
        elseif not is_planned[id] then
            is_planned[id] = true
            local record = booking.load(cell.booking_key(sale, id))
            if booking.is_held(record) then
                plan_one(id, record)
            end
        end
    end
end

local function plan()
    held = tonumber(redis.call('HGET', keys.buyers, user) or 0)
    if over_limit() or first_short() then
        plan_take_back('b:' .. user, function() return over_limit() or first_short() end)
    end
    for _, item in ipairs(wanted) do
        if not over_limit() and is_short(item) then
            plan_take_back('z:' .. item.zone_id, function() return is_short(item) end)
        end
    end
    local short = first_short()
    if (over_limit() or short) and more_due then
        return { status.HOLDS_DUE, '' }
    elseif over_limit() then
        return { status.OVER_USER_LIMIT, '', quantity, held, sale.max_per_user }
    elseif short then
        return { status.INSUFFICIENT_STOCK, '', short.zone_id, short.quantity, short.zone.available }
    elseif redis.call('XLEN', keys.ledger) >= sale.ledger_max then
        return { status.LEDGER_FULL, '' }
    end
end

local refusal = load_items() or check_order() or plan()

-- Nothing above this line writes; nothing below it can refuse.

for _, each in ipairs(due) do
    hold.give_back(keys, sale, each.id, each.record, 'expire', 'expired')
end
if refusal then
    -- An attempt that is refused counts towards the rate as well: it is what the limit is for.
    gcra.charge(KEYS[5], now_ms, full_at_ms)
    refusal[2] = cell.at(sale)
    return refusal
end

local expires_at_ms = now_ms + sale.hold_ttl_ms
local total_minor = 0
local texts = {}
local items = {}
for i, item in ipairs(wanted) do
    texts[i] = string.format('["%s",%.0f,%.0f,"%s"]', item.zone_id, item.quantity, item.zone.price_minor, item.zone.show)
    items[i] = { item.zone_id, item.quantity }
    total_minor = total_minor + item.quantity * item.zone.price_minor
end
local items_text = '[' .. table.concat(texts, ',') .. ']'

local at = ledger.append(keys.ledger, sale, string.format('["reserve",%.0f,"%s","%s","%s",%.0f,"%s",%s]',
    now_ms, booking_id, user, fingerprint, expires_at_ms, sale.currency, items_text))
gcra.charge(KEYS[5], now_ms, full_at_ms)
for _, item in ipairs(wanted) do
    item.zone.kind.take(item.zone_key, item.quantity)
end
redis.call('HINCRBY', keys.buyers, user, quantity)
redis.call('HSET', KEYS[6], 'user', user, 'status', 'reserved', 'version', 1, 'fingerprint', fingerprint,
    'items', items_text, 'quantity', quantity, 'total_minor', total_minor, 'currency', sale.currency,
    'created_at_ms', now_ms, 'expires_at_ms', expires_at_ms, 'seq', at)
deadlines.add(keys.deadlines, booking_id, user, expires_at_ms, items)

return { status.OK, at, user, 'reserved', 1, fingerprint, items_text, quantity, total_minor, sale.currency,
    now_ms, expires_at_ms, false, false, at }
