-- build_load: put some bookings back, with their deadlines and their buyers' units.
-- KEYS build buyers deadlines
-- ARGV token records: '<booking> <text of its record>', a line each
-- RETURNS status
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')
local booking = require('booking')
local buyers = require('buyers')
local deadlines = require('deadlines')

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return { status.BUILD_VOID }
end

-- Nothing above this line writes; nothing below it can refuse.

local prefix = string.sub(KEYS[1], 1, -6) .. 'booking:'
for id, text in string.gmatch(ARGV[2], '(%S+) ([^\n]+)') do
    booking.put(prefix .. id, text)
    local record = booking.load(prefix .. id)
    if record.status == 'reserved' or record.status == 'confirmed' then
        local buyer = buyers.load(KEYS[2], record.user)
        buyers.hold(buyer, id, record.expires_at_ms, record.quantity)
        if record.status == 'confirmed' then
            buyers.release(buyer, id, 0)
        end
    end
    if record.status == 'reserved' then
        deadlines.add(id, record.expires_at_ms, cjson.decode(record.items))
    end
end
buyers.save(KEYS[2])
booking.save()
deadlines.save(KEYS[3])
return { status.OK }
