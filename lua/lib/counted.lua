-- Zones that are a plain count. Every kind of zone has these three functions and nothing else knows
-- the kind: find says whether the item is free, take and give move it between the counters.
local zone = require('zone')

local counted = {}

-- True where the item fits, once planned holds are given back.
function counted.find(of, quantity)
    return of.available + of.planned >= quantity
end

function counted.take(of, quantity)
    zone.move(of, 'available', 'reserved', quantity)
end

-- `from` is the counter that holds the item: reserved or confirmed.
function counted.give(of, quantity, from)
    zone.move(of, from, 'available', quantity)
end

return counted
