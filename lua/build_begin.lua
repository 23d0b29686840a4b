-- build_begin: close a cell and begin to rebuild it. Whatever an older rebuild still sends is void.
-- KEYS sale build
-- ARGV token
-- RETURNS status
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')

-- Nothing above this line writes; nothing below it can refuse.

redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[1])
return { status.OK }
