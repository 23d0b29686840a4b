-- fence: close one cell until recovery has looked at it. Everything in it stays as it is.
-- KEYS sale
-- RETURNS status
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
    return { status.NOT_OPEN }
end

-- Nothing above this line writes; nothing below it can refuse.

redis.call('HSET', KEYS[1], 'fenced_epoch', epoch)
redis.call('HDEL', KEYS[1], 'epoch')
return { status.OK }
