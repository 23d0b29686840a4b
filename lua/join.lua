-- join: give people their numbers, each once. One call serves several, one after the other.
-- KEYS sale queue places gone ledger
-- ARGV people (user_bytes user asserted_number)+:
--     `user_bytes` are the 16 of the id; `asserted_number` is that of a signed ticket, 0 without one
-- RETURNS status at number ... for each: OK a new one, REPLAYED the one that they have; SALE_NOT_OPEN: status
--     opens_at end now; QUEUE_NONE, REBUILDING, LEDGER_FULL
-- GROUP verb
local status = require('status')
local cell = require('cell')
local gone = require('gone')
local ledger = require('ledger')
local queue = require('queue')

local people = tonumber(ARGV[1])
local answers = {}

local function answer_all(outcome, at)
    for i = 1, people do
        answers[i] = { outcome, at }
    end
    return answers
end

local sale = cell.load(KEYS[1])
if not sale then
    return answer_all(status.NOT_OPEN, '0-0')
end
local room, refused = queue.load(KEYS[2], sale)
if refused then
    return answer_all(refused, cell.at(sale))
end

local asked, raws = {}, {}
for i = 1, people do
    asked[i] = { raw = ARGV[i * 3 - 1], user = ARGV[i * 3], asserted = tonumber(ARGV[i * 3 + 1]) }
    raws[i] = asked[i].raw
end
local numbers = redis.call('HMGET', KEYS[3], unpack(raws))

local is_freeze_due = queue.is_freeze_due(sale, room)
local is_joinable = queue.is_joinable(sale, cell.is_over(sale))
-- What the ledger still has room for, once the freeze is in it.
local entries_left = sale.ledger_max - redis.call('XLEN', KEYS[5]) - (is_freeze_due and 1 or 0)
local opens_at_ms = sale.queue_opens_at_ms > 0 and sale.queue_opens_at_ms or sale.sale_start_at_ms
local is_returning = {}

-- Whether this person gets the number of their ticket back. Once the entrants are frozen, what is not among them
-- cannot come to be.
local function may_return(number)
    local entrants = is_freeze_due and room.tail or room.entrants or 0
    return number > entrants and not is_returning[number] and queue.is_in_gap(room, number)
        and gone.is_gone(KEYS[4], number) and not redis.call('HGET', room.key, queue.ended_field(number))
end

local returning, new = {}, {}
local has_joined = {}
for i, person in ipairs(asked) do
    if numbers[i] then
        answers[i] = { status.REPLAYED, '', tonumber(numbers[i]) }
    elseif has_joined[person.raw] then
        answers[i] = { status.REPLAYED, '', has_joined[person.raw] }
    elseif not is_joinable then
        answers[i] = { status.SALE_NOT_OPEN, '', sale.status, opens_at_ms, sale.sale_end_at_ms, sale.now_ms }
    elseif person.asserted > 0 and entries_left > 0 and may_return(person.asserted) then
        entries_left = entries_left - 1
        is_returning[person.asserted] = true
        person.number = person.asserted
        returning[#returning + 1] = person
    elseif #new == 0 and entries_left < 1 then
        answers[i] = { status.LEDGER_FULL, '' }
    else
        entries_left = entries_left - (#new == 0 and 1 or 0)
        new[#new + 1] = person
        person.number = room.tail + #new
    end
    if person.number then
        has_joined[person.raw] = person.number
        answers[i] = { status.OK, '', person.number }
    end
end

-- Nothing above this line writes; nothing below it can refuse.

queue.freeze_if_due(KEYS[5], sale, room)
local fields = {}
local function place(person)
    fields[#fields + 1] = person.raw
    fields[#fields + 1] = person.number
end
for _, person in ipairs(returning) do
    ledger.append(KEYS[5], sale, string.format('["join",%.0f,%.0f,["%s"]]', sale.now_ms, person.number, person.user))
    place(person)
    -- Whoever was passed while they were away is late, and their place stays marked: no slot was kept for it.
    if person.number > room.serving and gone.mark(KEYS[4], person.number, 0) then
        redis.call('HINCRBY', room.key, 'gone', -1)
    end
end
if #new > 0 then
    local users = {}
    for i, person in ipairs(new) do
        users[i] = '"' .. person.user .. '"'
        place(person)
    end
    ledger.append(KEYS[5], sale, string.format('["join",%.0f,%.0f,[%s]]', sale.now_ms, room.tail + 1,
        table.concat(users, ',')))
    redis.call('HSET', room.key, 'tail', room.tail + #new)
end
if #fields > 0 then
    redis.call('HSET', KEYS[3], unpack(fields))
end
cell.save(sale)
for i = 1, people do
    answers[i][2] = cell.at(sale)
end
return answers
