-- edit: apply one versioned intent of the organizer. What the intent leaves out stays as it is. An intent
-- that would take away seats in use is refused as a whole; its version is used up all the same, so that
-- the ledger tells the outcome of each.
-- KEYS sale ledger zone*
-- ARGV version intent: JSON {sale: {field: value}, zones: [{zone_id, show_id?, price_minor?, max_per_order?,
--     capacity?, blocked?}]}, zones in the order of their keys; show_id marks a new zone
-- RETURNS status at: REPLAYED where the cell has this version already
-- FLAGS allow-oom
-- GROUP verb
local status = require('status')
local cell = require('cell')
local ledger = require('ledger')

local FIXED_KEYS = 2
local SALE_FIELDS = { 'status', 'sale_start_at_ms', 'sale_end_at_ms', 'max_per_user', 'hold_ttl_ms',
    'queue_interval_us', 'queue_passes_max', 'queue_pass_ttl_ms', 'queue_grace_ms', 'queue_paused' }

local version = tonumber(ARGV[1])
local intent = cjson.decode(ARGV[2])

local sale = cell.load(KEYS[1])
if not sale then
    return { status.NOT_OPEN, '0-0' }
elseif sale.version >= version then
    return { status.REPLAYED, cell.at(sale) }
elseif sale.version + 1 < version then
    return { status.VERSION_AHEAD, cell.at(sale) }
end

-- What each zone will look like, and by how much its counters move.
local changes = {}
local outcome = 'applied'
for i, wish in ipairs(intent.zones or {}) do
    local key = KEYS[FIXED_KEYS + i]
    local fields = redis.call('HMGET', key, 'capacity', 'blocked', 'reserved', 'confirmed', 'available')
    local is_new = not fields[1]
    local capacity, blocked = tonumber(fields[1] or 0), tonumber(fields[2] or 0)
    local in_use = tonumber(fields[3] or 0) + tonumber(fields[4] or 0)
    local available = tonumber(fields[5] or 0)
    local new_capacity = wish.capacity or capacity
    local new_blocked = wish.blocked or blocked
    local new_available = new_capacity - new_blocked - in_use
    if new_available < 0 or (is_new and not wish.show_id) then
        outcome = 'refused'
    end
    changes[i] = {
        key = key, wish = wish, is_new = is_new, capacity = new_capacity, blocked = new_blocked,
        available = new_available,
        text = string.format('["%s",%.0f,%.0f,%.0f]', wish.zone_id, new_capacity - capacity,
            new_available - available, new_blocked - blocked),
    }
end

-- Nothing above this line writes; nothing below it can refuse.

local texts = {}
if outcome == 'applied' then
    for i, change in ipairs(changes) do
        texts[i] = change.text
    end
end
ledger.append(KEYS[2], sale, string.format('["edit",%.0f,%.0f,"%s",[%s]]',
    sale.now_ms, version, outcome, table.concat(texts, ',')))
cell.save(sale)
redis.call('HSET', sale.key, 'version', version)
if outcome == 'refused' then
    return { status.BELOW_IN_USE, cell.at(sale) }
end

for _, field in ipairs(SALE_FIELDS) do
    local value = intent.sale and intent.sale[field]
    if value then
        redis.call('HSET', sale.key, field, value)
    end
end
for _, change in ipairs(changes) do
    local wish = change.wish
    redis.call('HSET', change.key, 'capacity', change.capacity, 'blocked', change.blocked, 'available', change.available)
    if change.is_new then
        redis.call('HSET', change.key, 'show', wish.show_id, 'kind', 'counted', 'price_minor', 0,
            'max_per_order', 1, 'reserved', 0, 'confirmed', 0)
        local zone_ids = redis.call('HGET', sale.key, 'zones')
        redis.call('HSET', sale.key, 'zones', zone_ids == '' and wish.zone_id or zone_ids .. ' ' .. wish.zone_id)
    end
    if wish.price_minor then
        redis.call('HSET', change.key, 'price_minor', wish.price_minor)
    end
    if wish.max_per_order then
        redis.call('HSET', change.key, 'max_per_order', wish.max_per_order)
    end
end
return { status.OK, cell.at(sale) }
