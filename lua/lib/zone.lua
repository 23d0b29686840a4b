-- The zones of one script call: each is read once, moved in memory, and written once at the end. A move
-- comes after the call's first ledger entry, so nothing that can still fail stands before zone.save.
local cell = require('cell')

local zone = {}

local COUNTERS = { 'available', 'reserved', 'confirmed' }

local by_id = {}
local moved = {}

-- The zone of that id, loaded on first use; its `show` is false where there is no such zone.
function zone.load(sale, id)
    local known = by_id[id]
    if not known then
        local key = cell.zone_key(sale, id)
        local fields = redis.call('HMGET', key, 'show', 'kind', 'price_minor', 'max_per_order', 'available')
        known = {
            key = key, id = id, show = fields[1], kind = fields[2], price_minor = fields[3],
            max_per_order = tonumber(fields[4]), available = tonumber(fields[5]),
            -- What due holds will give back that a request has planned to take back, but has not yet.
            planned = 0,
        }
        by_id[id] = known
    end
    return known
end

-- Moves units from one counter to another.
function zone.move(of, from, to, quantity)
    if not of.moves then
        of.moves = { available = 0, reserved = 0, confirmed = 0 }
        moved[#moved + 1] = of
    end
    of.moves[from] = of.moves[from] - quantity
    of.moves[to] = of.moves[to] + quantity
    of.available = of.available + (from == 'available' and -quantity or 0) + (to == 'available' and quantity or 0)
end

-- Writes what was moved.
function zone.save()
    for _, each in ipairs(moved) do
        for _, counter in ipairs(COUNTERS) do
            if each.moves[counter] ~= 0 then
                redis.call('HINCRBY', each.key, counter, each.moves[counter])
            end
        end
    end
end

return zone
