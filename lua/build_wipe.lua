-- build_wipe: remove keys that the cell has from before.
-- KEYS build key*
-- ARGV token
-- RETURNS status
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return { status.BUILD_VOID }
end

-- Nothing above this line writes; nothing below it can refuse.

for i = 2, #KEYS do
    redis.call('UNLINK', KEYS[i])
end
return { status.OK }
