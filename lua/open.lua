-- open: begin a new epoch in a cell whose ledger is in Postgres to its end.
-- KEYS sale ledger
-- ARGV expected_epoch expected_seq new_epoch token?: what the cell was fenced with
-- RETURNS status
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')
local clock = require('clock')

local fields = redis.call('HMGET', KEYS[1], 'epoch', 'fenced_epoch', 'seq', 'time_ms', 'fence')
local is_there = (fields[1] or fields[2]) == ARGV[1] and fields[3] == ARGV[2]
if not is_there or (fields[5] or nil) ~= ARGV[4] then
    return { status.EPOCH_STALE }
end
local now_ms = math.max(clock.now_ms(), tonumber(fields[4]))

-- Nothing above this line writes; nothing below it can refuse.

redis.call('XADD', KEYS[2], ARGV[3] .. '-0', 'e', string.format('["open",%.0f]', now_ms))
redis.call('HSET', KEYS[1], 'epoch', ARGV[3], 'seq', 0, 'time_ms', now_ms)
redis.call('HDEL', KEYS[1], 'fenced_epoch', 'fence')
return { status.OK }
