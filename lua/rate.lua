-- rate: a token bucket outside any cell, for the endpoints that have one.
-- KEYS rate
-- ARGV interval_ms burst
-- RETURNS allowed wait_ms remaining
-- GROUP verb
local clock = require('clock')
local gcra = require('gcra')

local now_ms = clock.now_ms()
local stored_ms = tonumber(redis.call('GET', KEYS[1]) or 0)
local full_at_ms, wait_ms, remaining = gcra.check(stored_ms, now_ms, tonumber(ARGV[1]), tonumber(ARGV[2]))
if not full_at_ms then
    return { 0, wait_ms, remaining }
end

-- Nothing above this line writes; nothing below it can refuse.

gcra.charge(KEYS[1], now_ms, full_at_ms)
return { 1, wait_ms, remaining }
