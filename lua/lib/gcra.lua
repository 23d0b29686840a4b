-- A token bucket kept as one number: the generic cell rate algorithm (ITU-T I.371). The number is the
-- time at which the bucket will be full again.
local gcra = {}

-- Decides without writing. Returns the new number, or nothing and the milliseconds to wait; then the
-- tokens that are left.
function gcra.check(full_at_ms, now_ms, interval_ms, burst)
    local next_full_at_ms = math.max(now_ms, full_at_ms) + interval_ms
    local excess_ms = next_full_at_ms - now_ms - interval_ms * burst
    if excess_ms > 0 then
        return nil, excess_ms, 0
    end
    return next_full_at_ms, 0, math.floor(-excess_ms / interval_ms)
end

-- Stores the number until the bucket is full. Must not fail, and SET would refuse a lifetime of 0.
function gcra.charge(key, now_ms, next_full_at_ms)
    redis.call('SET', key, next_full_at_ms, 'PX', math.max(1, next_full_at_ms - now_ms))
end

return gcra
