-- build_queue: put the waiting room itself back, once all of its places are there. Several calls may bring it in
-- parts, the fields of `queue` in the last one.
-- KEYS build queue passes spent waves gone
-- ARGV token queue passes spent waves gone: a JSON object of fields; lists [[user, expires_at_ms], ...],
--     [[user, booking], ...], [[from, to, people, served_at_ms], ...]; the bytes of the bitmap, '' for none
-- RETURNS status
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')

local ARGUMENTS_MAX = 1000

local fields, passes = cjson.decode(ARGV[2]), cjson.decode(ARGV[3])
local spent, waves = cjson.decode(ARGV[4]), cjson.decode(ARGV[5])

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return { status.BUILD_VOID }
end

-- Nothing above this line writes; nothing below it can refuse.

local function write(command, key, values)
    for first = 1, #values, ARGUMENTS_MAX do
        redis.call(command, key, unpack(values, first, math.min(first + ARGUMENTS_MAX - 1, #values)))
    end
end

local values = {}
for _, pass in ipairs(passes) do
    values[#values + 1] = string.format('%.0f', pass[2])
    values[#values + 1] = pass[1]
end
write('ZADD', KEYS[3], values)
values = {}
for _, each in ipairs(spent) do
    values[#values + 1] = each[1]
    values[#values + 1] = each[2]
end
write('HSET', KEYS[4], values)
values = {}
for _, wave in ipairs(waves) do
    values[#values + 1] = string.format('%.0f', wave[2])
    values[#values + 1] = string.format('%.0f:%.0f:%.0f:%.0f', wave[1], wave[2], wave[3], wave[4])
end
write('ZADD', KEYS[5], values)
if ARGV[6] ~= '' then
    redis.call('SET', KEYS[6], ARGV[6])
end
values = {}
for name, value in pairs(fields) do
    values[#values + 1] = name
    values[#values + 1] = value
end
write('HSET', KEYS[2], values)
return { status.OK }
