-- Stands in the place of lua/lib/clock.lua in a simulation: what time it is, the simulation says.
local clock = {}

function clock.now_ms()
    return tonumber(redis.call('GET', 'simulated_now_ms'))
end

return clock
