-- open: begin a new epoch in a cell whose ledger is in Postgres to its end.
-- KEYS sale ledger queue gone
-- ARGV expected_epoch expected_seq new_epoch token? tail? gaps?: what the cell was fenced with; and of a waiting room
--     the number behind which the next ones begin, with the gaps before it: its people may have joined in an end
--     of the ledger that is lost, unseen
-- RETURNS status
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')
local clock = require('clock')
local gone = require('gone')

local fields = redis.call('HMGET', KEYS[1], 'epoch', 'fenced_epoch', 'seq', 'time_ms', 'fence')
local is_there = (fields[1] or fields[2]) == ARGV[1] and fields[3] == ARGV[2]
if not is_there or (fields[5] or '') ~= (ARGV[4] or '') then
    return { status.EPOCH_STALE }
end
local now_ms = math.max(clock.now_ms(), tonumber(fields[4]))
local tail, gaps = tonumber(ARGV[5] or 0), ARGV[6]
local last = tonumber(redis.call('HGET', KEYS[3], 'tail') or tail)

-- Nothing above this line writes; nothing below it can refuse.

redis.call('XADD', KEYS[2], ARGV[3] .. '-0', 'e', string.format('["open",%.0f]', now_ms))
redis.call('HSET', KEYS[1], 'epoch', ARGV[3], 'seq', 0, 'time_ms', now_ms)
redis.call('HDEL', KEYS[1], 'fenced_epoch', 'fence')
if last < tail then
    gone.mark_all(KEYS[4], last + 1, tail)
    redis.call('HSET', KEYS[3], 'tail', tail, 'gaps', gaps)
    redis.call('HINCRBY', KEYS[3], 'gone', tail - last)
end
return { status.OK }
