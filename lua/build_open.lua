-- build_open: put the zones back and open the rebuilt cell; `sale` is the last key to be written. Where it has
-- the field `loaded`, records are still to come, under the same token.
-- KEYS build sale ledger zone*
-- ARGV token sale zone*: JSON objects of fields; sale has epoch, zones in the order of their keys
-- RETURNS status
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')
local clock = require('clock')

local FIXED_KEYS = 3

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return { status.BUILD_VOID }
end

-- Nothing above this line writes; nothing below it can refuse.

local function write(key, text, more)
    local fields = more
    for name, value in pairs(cjson.decode(text)) do
        fields[#fields + 1] = name
        fields[#fields + 1] = value
    end
    redis.call('HSET', key, unpack(fields))
end

local now_ms = clock.now_ms()
local sale = cjson.decode(ARGV[2])
redis.call('XADD', KEYS[3], sale.epoch .. '-0', 'e', string.format('["open",%.0f]', now_ms))
for i = FIXED_KEYS + 1, #KEYS do
    write(KEYS[i], ARGV[i - FIXED_KEYS + 2], {})
end
if not sale.loaded then
    redis.call('DEL', KEYS[1])
end
write(KEYS[2], ARGV[2], { 'seq', 0, 'time_ms', now_ms })
return { status.OK }
