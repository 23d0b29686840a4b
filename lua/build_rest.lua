-- build_rest: put records back into a cell that sells already, and say how far they are.
-- KEYS build sale
-- ARGV token loaded records: '<booking> <text of its record>', a line each, in the order of the ids; all up to
--     `loaded` are there then. Without `loaded` nothing more is to come
-- RETURNS status
-- FLAGS allow-oom
-- GROUP recovery
local status = require('status')

local ARGUMENTS_MAX = 1000

if redis.call('GET', KEYS[1]) ~= ARGV[1] or not redis.call('HGET', KEYS[2], 'loaded') then
    return { status.BUILD_VOID }
end

local prefix = string.sub(KEYS[1], 1, -6) .. 'booking:'
local keys, texts = {}, {}
for id, text in string.gmatch(ARGV[3], '(%S+) ([^\n]+)') do
    keys[#keys + 1] = prefix .. id
    texts[#texts + 1] = text
end

-- A record that is there is newer than what was read in Postgres: a hold that has been sold since, for instance.
local absent = {}
for first = 1, #keys, ARGUMENTS_MAX do
    local there = redis.call('MGET', unpack(keys, first, math.min(first + ARGUMENTS_MAX - 1, #keys)))
    for i, text in ipairs(there) do
        if not text then
            absent[#absent + 1] = keys[first + i - 1]
            absent[#absent + 1] = texts[first + i - 1]
        end
    end
end

-- Nothing above this line writes; nothing below it can refuse.

for first = 1, #absent, ARGUMENTS_MAX do
    redis.call('MSET', unpack(absent, first, math.min(first + ARGUMENTS_MAX - 1, #absent)))
end
if ARGV[2] == '' then
    redis.call('HDEL', KEYS[2], 'loaded')
    redis.call('DEL', KEYS[1])
else
    redis.call('HSET', KEYS[2], 'loaded', ARGV[2])
end
return { status.OK }
