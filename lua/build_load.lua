-- build_load: put some bookings back, with their deadlines and their buyers' units.
-- KEYS build buyers deadlines booking+
-- ARGV token record+: each JSON {user, status, version, fingerprint, items, quantity, total_minor, currency,
--     created_at_ms, expires_at_ms, confirmed_at_ms?, code?, ended_at_ms?, seq}, in the order of the booking keys
-- RETURNS status
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')
local buyers = require('buyers')
local deadlines = require('deadlines')

local FIXED_KEYS = 3

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return { status.BUILD_VOID }
end

-- Nothing above this line writes; nothing below it can refuse.

for i = FIXED_KEYS + 1, #KEYS do
    local record = cjson.decode(ARGV[i - FIXED_KEYS + 1])
    local fields = {}
    for name, value in pairs(record) do
        fields[#fields + 1] = name
        fields[#fields + 1] = value
    end
    redis.call('HSET', KEYS[i], unpack(fields))
    if record.status == 'reserved' or record.status == 'confirmed' then
        local buyer = buyers.load(KEYS[2], record.user)
        buyers.hold(buyer, deadlines.booking_of(KEYS[i]), record.expires_at_ms, tonumber(record.quantity))
        if record.status == 'confirmed' then
            buyers.release(buyer, deadlines.booking_of(KEYS[i]), 0)
        end
    end
    if record.status == 'reserved' then
        deadlines.add(deadlines.booking_of(KEYS[i]), record.expires_at_ms, cjson.decode(record.items))
    end
end
buyers.save(KEYS[2])
deadlines.save(KEYS[3])
return { status.OK }
