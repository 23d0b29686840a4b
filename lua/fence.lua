-- fence: close one cell until recovery has looked at it. Everything in it stays as it is.
-- KEYS sale
-- ARGV token?: of a recovery that means to open it; whoever had fenced it before can then not open it any more
-- RETURNS status
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')

local token = ARGV[1]
local fields = redis.call('HMGET', KEYS[1], 'epoch', 'fenced_epoch')
local epoch, fenced_epoch = fields[1], fields[2]
if not epoch and not (token and fenced_epoch) then
    return { status.NOT_OPEN }
end

-- Nothing above this line writes; nothing below it can refuse.

if epoch then
    redis.call('HSET', KEYS[1], 'fenced_epoch', epoch)
    redis.call('HDEL', KEYS[1], 'epoch')
end
if token then
    redis.call('HSET', KEYS[1], 'fence', token)
end
return { status.OK }
