-- draw: the places of the entrants of a lottery are known.
-- KEYS sale queue gone ledger
-- ARGV key gone_count gone: what the permutation is made of, in hex; how many were gone in all when that was read, by
--     number; and those who are, by place
-- RETURNS status at: EPOCH_STALE where the entrants are not frozen, or somebody else has left since; REPLAYED where
--     the draw was before
-- GROUP verb
local status = require('status')
local cell = require('cell')
local gone = require('gone')
local ledger = require('ledger')
local queue = require('queue')

local key_hex, gone_count, by_place = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local sale = cell.load(KEYS[1])
if not sale then
    return { status.NOT_OPEN, '0-0' }
end
local room, refused = queue.load(KEYS[2], sale)
if refused or sale.queue_mode ~= 'lottery' then
    return { refused or status.QUEUE_NONE, cell.at(sale) }
elseif room.is_drawn then
    return { status.REPLAYED, cell.at(sale) }
elseif not room.entrants or redis.call('BITCOUNT', KEYS[3]) ~= gone_count then
    return { status.EPOCH_STALE, cell.at(sale) }
end
-- Of the entrants nobody comes back, so that as many being gone means the same ones. Behind them people leave, and
-- come back into a gap: what stands here of those is newer than what the caller has read.
local by_number = redis.call('GETRANGE', KEYS[3], 0, -1)
if gone.count(gone.joined(by_place, '', room.entrants)) ~= gone.count(gone.joined(by_number, '', room.entrants)) then
    return { status.EPOCH_STALE, cell.at(sale) }
end
local bitmap = gone.joined(by_place, by_number, room.entrants)

-- Nothing above this line writes; nothing below it can refuse.

ledger.append(KEYS[4], sale, string.format('["draw",%.0f]', sale.now_ms))
redis.call('HSET', room.key, 'key', key_hex)
if #bitmap > 0 then
    redis.call('SET', KEYS[3], bitmap)
end
cell.save(sale)
return { status.OK, cell.at(sale) }
