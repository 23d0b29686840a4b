-- reserve: take 1-8 items of one event for one buyer, all or none. One call serves several requests, one
-- after the other, each as if it had come alone: what they have in common is read and written once.
-- KEYS sale buyers ledger deadlines passes spent queue (rate,booking)+zone+
-- ARGV requests rate_interval_ms rate_burst due_max (user booking fingerprint pass items (zone show quantity)+)+:
--     `pass` is when the pass that was shown runs out, in ms; '' where none was, '-' for one that is none of ours
-- RETURNS status at ... for each request: OK: items quantity total_minor currency created_at_ms
--     expires_at_ms; REPLAYED: the record; SALE_NOT_OPEN: status start end now; RATE_LIMITED: wait_ms;
--     ZONE_UNKNOWN, SHOW_MISMATCH: zone; OVER_ORDER_LIMIT: zone requested limit;
--     OVER_USER_LIMIT: requested held limit; INSUFFICIENT_STOCK: zone requested available.
--     A request that fails is answered by its error, and those behind it are not answered, as if never sent
-- GROUP verb
local status = require('status')
local booking = require('booking')
local buyers = require('buyers')
local cell = require('cell')
local deadlines = require('deadlines')
local digits = require('digits')
local gcra = require('gcra')
local hold = require('hold')
local kinds = require('kinds')
local ledger = require('ledger')
local passes = require('passes')
local take_back = require('take_back')
local zone = require('zone')

local FIXED_KEYS = 7
local FIXED_ARGS = 4

local requests = tonumber(ARGV[1])
local rate_interval_ms, rate_burst = tonumber(ARGV[2]), tonumber(ARGV[3])
-- Due holds that this call may still take back.
local due_left = tonumber(ARGV[4])
local keys = {
    buyers = KEYS[2], ledger = KEYS[3], deadlines = KEYS[4], passes = KEYS[5], spent = KEYS[6], queue = KEYS[7],
}
local answers = {}
local baskets = {}

local sale = cell.load(KEYS[1])
if not sale then
    for i = 1, requests do
        answers[i] = { status.NOT_OPEN, '0-0' }
    end
    return answers
end

-- What all requests of this call have in common.
local now_ms = sale.now_ms
local now_text, expires_at_text = digits.of(now_ms), digits.of(now_ms + sale.hold_ttl_ms)
local is_on_sale = cell.is_on_sale(sale)
local is_pass_needed = passes.are_needed(sale)
local seq_max = sale.seq - redis.call('XLEN', keys.ledger) + sale.ledger_max

local function replay(request, record)
    if record.user ~= request.user then
        return { status.KEY_COLLISION, cell.at(sale) }
    elseif record.fingerprint ~= request.fingerprint then
        return { status.KEY_REUSED, cell.at(sale) }
    end
    return { status.REPLAYED, cell.at(sale), unpack(booking.answer(record.key)) }
end

local function check_pass(request)
    local refused = is_pass_needed and passes.check(sale, request)
    return refused and { refused, '' } or nil
end

local function check_order(basket)
    local items = basket.items
    if basket.is_checked then
        return nil
    end
    for _, item in ipairs(items) do
        if not item.zone.show then
            return { status.ZONE_UNKNOWN, '', item.zone.id }
        end
    end
    for _, item in ipairs(items) do
        if item.show ~= '' and item.show ~= item.zone.show then
            return { status.SHOW_MISMATCH, '', item.zone.id }
        end
    end
    for _, item in ipairs(items) do
        if item.quantity > item.zone.max_per_order then
            return { status.OVER_ORDER_LIMIT, '', item.zone.id, item.quantity, item.zone.max_per_order }
        end
    end
    basket.is_checked = true
end

local function check_stock(request)
    local over_limit, short, more_due = take_back.plan(keys, sale, request, due_left)
    if (over_limit or short) and more_due then
        return { status.HOLDS_DUE, '' }
    elseif over_limit then
        return { status.OVER_USER_LIMIT, '', request.quantity, take_back.held(request), sale.max_per_user }
    elseif short then
        return { status.INSUFFICIENT_STOCK, '', short.zone.id, short.quantity, short.zone.available + short.zone.planned }
    elseif sale.seq >= seq_max then
        return { status.LEDGER_FULL, '' }
    end
end

-- The items as JSON text, and what they cost.
local function priced(basket)
    if not basket.text then
        local texts = {}
        local total_minor = 0
        for i, item in ipairs(basket.items) do
            local of = item.zone
            texts[i] = '["' .. of.id .. '",' .. digits.of(item.quantity) .. ',' .. of.price_minor .. ',"' .. of.show .. '"]'
            total_minor = total_minor + item.quantity * of.price_minor
        end
        basket.text, basket.total_minor = '[' .. table.concat(texts, ',') .. ']', digits.of(total_minor)
    end
    return basket.text, basket.total_minor
end

local function answer(request)
    local record = request.fingerprint ~= '' and booking.load(request.booking_key)
    if record then
        return replay(request, record)
    elseif request.fingerprint ~= '' and cell.may_come(sale, request.booking) then
        return { status.REBUILDING, cell.at(sale) }
    end
    if not is_on_sale then
        return { status.SALE_NOT_OPEN, cell.at(sale), sale.status, sale.sale_start_at_ms, sale.sale_end_at_ms, now_ms }
    end
    local buyer = buyers.load(keys.buyers, request.user)
    request.buyer = buyer
    local full_at_ms, wait_ms = gcra.check(buyer.full_at_ms, now_ms, rate_interval_ms, rate_burst)
    if not full_at_ms then
        return { status.RATE_LIMITED, cell.at(sale), wait_ms }
    end
    local refusal = check_pass(request) or check_order(request.basket) or check_stock(request)

    -- Nothing above this line writes; nothing below it can refuse.

    due_left = due_left - take_back.carry_out(keys, sale, request)
    if refusal then
        -- An attempt that is refused counts towards the rate as well: it is what the limit is for.
        buyers.charge(buyer, full_at_ms)
        refusal[2] = cell.at(sale)
        return refusal
    end
    local items_text, total_minor = priced(request.basket)
    local at = ledger.append(keys.ledger, sale, '["reserve",' .. now_text .. ',"' .. request.booking .. '","'
        .. request.user .. '","' .. request.fingerprint .. '",' .. expires_at_text .. ',"' .. sale.currency
        .. '",' .. items_text .. (is_pass_needed and ',1]' or ']'))
    if is_pass_needed then
        passes.spend(request)
    end
    for _, item in ipairs(request.items) do
        kinds[item.zone.kind].take(item.zone, item.quantity)
    end
    buyers.hold(buyer, request.booking, expires_at_text, request.quantity)
    buyers.charge(buyer, full_at_ms)
    booking.make(request.booking_key, at, request.user, request.fingerprint, digits.of(request.quantity), total_minor,
        sale.currency, now_text, expires_at_text, items_text)
    deadlines.add(request.booking, expires_at_text, request.items)
    return { status.OK, at, items_text, request.quantity, total_minor, sale.currency, now_text, expires_at_text }
end

-- What ARGV asks for from `first` to `last`. In a rush that is mostly what others of the call ask for as well.
local function basket_of(first, last)
    local name = table.concat(ARGV, ' ', first, last)
    local basket = baskets[name]
    if not basket then
        basket = { items = {}, quantity = 0 }
        for i = first, last, 3 do
            local of, quantity = zone.load(sale, ARGV[i]), tonumber(ARGV[i + 2])
            basket.items[#basket.items + 1] = { of.id, zone = of, show = ARGV[i + 1], quantity = quantity }
            basket.quantity = basket.quantity + quantity
        end
        baskets[name] = basket
    end
    return basket
end

-- The i-th request, whose arguments begin behind ARGV[before]; and where they end.
local function read(i, before)
    local last = before + 5 + 3 * tonumber(ARGV[before + 5])
    local basket = basket_of(before + 6, last)
    return {
        booking_key = KEYS[FIXED_KEYS + 2 * i],
        user = ARGV[before + 1], booking = ARGV[before + 2], fingerprint = ARGV[before + 3], pass = ARGV[before + 4],
        basket = basket, items = basket.items, quantity = basket.quantity,
    }, last
end

-- All are read before the first is answered: a zone that cannot be read must not stop the call half-way.
local asked = {}
local keyed, users, rate_keys = {}, {}, {}
local before = FIXED_ARGS
for i = 1, requests do
    asked[i], before = read(i, before)
    users[i], rate_keys[i] = asked[i].user, KEYS[FIXED_KEYS + 2 * i - 1]
    if asked[i].fingerprint ~= '' then
        keyed[#keyed + 1] = asked[i].booking_key
    end
end
booking.read_all(keyed)
if is_on_sale then
    buyers.read_all(keys.buyers, users, rate_keys)
    if is_pass_needed then
        passes.read_all(keys, asked)
    end
end
-- A request that fails, as on a record that is not ours, must not take with it what was done before it.
for i = 1, requests do
    local is_well, reply = pcall(answer, asked[i])
    answers[i] = is_well and reply or { err = tostring(type(reply) == 'table' and reply.err or reply) }
    if not is_well then
        break
    end
end
passes.save(keys)
hold.save(keys, sale)
return answers
