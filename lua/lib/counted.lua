-- Zones that are a plain count. Every kind of zone has these three functions and nothing else knows
-- the kind: find says whether the item is free, take and give move it between the counters.
local counted = {}

-- `zone.available` of the item's zone, as loaded; true where the item fits.
function counted.find(zone, quantity)
    return zone.available >= quantity
end

function counted.take(zone_key, quantity)
    redis.call('HINCRBY', zone_key, 'available', -quantity)
    redis.call('HINCRBY', zone_key, 'reserved', quantity)
end

-- `from` is the counter that holds the item: reserved or confirmed.
function counted.give(zone_key, quantity, from)
    redis.call('HINCRBY', zone_key, from, -quantity)
    redis.call('HINCRBY', zone_key, 'available', quantity)
end

return counted
