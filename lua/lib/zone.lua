-- The zones of one script call: each is read once, moved in memory, and written once at the end. A move
-- comes after the call's first ledger entry, so nothing that can still fail stands before zone.save.
local cell = require('cell')

local zone = {}

local by_id = {}
local moved = {}

-- The zone of that id, loaded on first use; its `show` is false where there is no such zone.
function zone.load(sale, id)
    local known = by_id[id]
    if not known then
        local key = cell.zone_key(sale, id)
        local fields = redis.call('HMGET', key, 'show', 'kind', 'price_minor', 'max_per_order', 'available',
            'reserved', 'confirmed')
        known = {
            key = key, id = id, show = fields[1], kind = fields[2], price_minor = fields[3],
            max_per_order = tonumber(fields[4]), available = tonumber(fields[5]),
            reserved = tonumber(fields[6]), confirmed = tonumber(fields[7]),
            -- What due holds will give back that a request has planned to take back, but has not yet.
            planned = 0,
        }
        by_id[id] = known
    end
    return known
end

-- Moves units from one counter to another.
function zone.move(of, from, to, quantity)
    if not of.is_moved then
        of.is_moved = true
        moved[#moved + 1] = of
    end
    of[from] = of[from] - quantity
    of[to] = of[to] + quantity
end

-- Writes what was moved.
function zone.save()
    for _, of in ipairs(moved) do
        redis.call('HSET', of.key, 'available', of.available, 'reserved', of.reserved, 'confirmed', of.confirmed)
    end
end

return zone
