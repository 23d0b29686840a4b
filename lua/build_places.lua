-- build_places: put some of the places of a waiting room back.
-- KEYS build places
-- ARGV token (user_bytes number)*
-- RETURNS status
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')

local ARGUMENTS_MAX = 1000

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return { status.BUILD_VOID }
end

-- Nothing above this line writes; nothing below it can refuse.

for first = 2, #ARGV, ARGUMENTS_MAX do
    redis.call('HSET', KEYS[2], unpack(ARGV, first, math.min(first + ARGUMENTS_MAX - 1, #ARGV)))
end
return { status.OK }
