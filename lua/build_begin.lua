-- build_begin: begin to rebuild a cell that is not open. Whatever an older rebuild still sends is void.
-- KEYS sale build
-- ARGV token: <epoch>-<random>
-- RETURNS status: BUILD_VOID where the cell is open, or a rebuild for a later epoch has begun
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')

-- Of two recoveries that both believe to be the one, the later epoch is the one that Postgres knows.
local function epoch_of(token)
    return tonumber(string.match(token or '', '^(%d+)-') or 0)
end

local is_open = redis.call('HGET', KEYS[1], 'epoch')
if is_open or epoch_of(redis.call('GET', KEYS[2])) > epoch_of(ARGV[1]) then
    return { status.BUILD_VOID }
end

-- Nothing above this line writes; nothing below it can refuse.

redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[1])
return { status.OK }
