-- build_units: put back what buyers have in bookings that are sold.
-- KEYS build buyers
-- ARGV token units: '<user> <units> ...', users as often as they come
-- RETURNS status
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')
local buyers = require('buyers')

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return { status.BUILD_VOID }
end

-- Nothing above this line writes; nothing below it can refuse.

local users, sold = {}, {}
for user, units in string.gmatch(ARGV[2], '(%S+) (%d+)') do
    if not sold[user] then
        users[#users + 1] = user
    end
    sold[user] = (sold[user] or 0) + units
end
buyers.add_sold(KEYS[2], users, sold)
return { status.OK }
