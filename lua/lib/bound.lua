-- How many may be let in at once. `out` counts who has a pass that has not run out, and those for whom a slot is kept;
-- of them there are never more than passes_max, nor more than what is left, with the holds that are expected back,
-- can serve. One is let in as long as anything is left.
local zone = require('zone')

local bound = {}

-- The seats of all zones that are available and reserved.
function bound.stock(sale, room)
    local available, reserved = 0, 0
    for zone_id in string.gmatch(room.zones, '%S+') do
        local of = zone.load(sale, zone_id)
        available, reserved = available + of.available, reserved + of.reserved
    end
    return { available = available, reserved = reserved }
end

-- How many are out, of whom `ending` slots end in this call.
function bound.out(passes_key, sale, room, ending)
    return redis.call('ZCOUNT', passes_key, string.format('(%.0f', sale.now_ms), '+inf') + room.unclaimed - ending
end

-- How many more may be let in where so many are out.
function bound.left(room, stock, out)
    local seats_milli = stock.available * 1000 + stock.reserved * room.return_permille
    local people_max = math.min(room.passes_max, math.floor(seats_milli / room.basket_milli))
    if out == 0 and stock.available > 0 then
        return math.max(1, people_max)
    end
    return math.max(0, people_max - out)
end

return bound
