-- build_resume: go on putting records back where another one has stopped. Whatever that one still sends is void.
-- KEYS sale build
-- ARGV token: <epoch>-<random>
-- RETURNS status loaded: BUILD_VOID where no records are to come
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')

local loaded = redis.call('HGET', KEYS[1], 'loaded')
if not loaded then
    return { status.BUILD_VOID, '' }
end

-- Nothing above this line writes; nothing below it can refuse.

redis.call('SET', KEYS[2], ARGV[1])
return { status.OK, loaded }
