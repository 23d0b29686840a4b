-- The booking record: one text, its fields with a blank between them and '-' for one that is absent.
-- Its items are JSON text without blanks, [[zone, quantity, price_minor, show], ...], written once by reserve
-- and copied as they are into every later ledger entry. A record is read once a call, changed in memory, where
-- the next request of the call finds it, and written at the end.
local booking = {}

local FIELDS = { 'status', 'version', 'seq', 'user', 'fingerprint', 'quantity', 'total_minor', 'currency',
    'created_at_ms', 'expires_at_ms', 'confirmed_at_ms', 'ended_at_ms', 'code', 'items' }
local SHAPE = '^' .. string.rep('(%S+) ', #FIELDS - 1) .. '(%S+)$'
local NONE = '-'
local ANSWERED = { 'user', 'status', 'version', 'fingerprint', 'items', 'quantity', 'total_minor', 'currency',
    'created_at_ms', 'expires_at_ms', 'confirmed_at_ms', 'code', 'seq' }
-- A record without an idempotency key need not outlive the questions about its end.
local ENDED_TTL_S = 86400
local ARGUMENTS_MAX = 1000

local texts = {}
local written = {}
local forgotten = {}

-- The fields of a record that are there, all text; a request without a key has the fingerprint ''.
local function parse(text)
    local values = { string.match(text, SHAPE) }
    -- Here and not where something is written already.
    assert(values[1], 'none of our records: ' .. text)
    local record = {}
    for i, name in ipairs(FIELDS) do
        if values[i] ~= NONE then
            record[name] = values[i]
        end
    end
    record.fingerprint = record.fingerprint or ''
    return record
end

-- Reads many records at once, for `load`.
function booking.read_all(keys)
    for i, text in ipairs(#keys > 0 and redis.call('MGET', unpack(keys)) or {}) do
        texts[keys[i]] = text
    end
end

-- The record with names for its fields, or nothing.
function booking.load(key)
    local text = texts[key]
    if text == nil then
        text = redis.call('GET', key)
        texts[key] = text
    end
    if not text then
        return nil
    end
    local record = parse(text)
    record.key = key
    record.version = tonumber(record.version)
    record.quantity = tonumber(record.quantity)
    record.expires_at_ms = tonumber(record.expires_at_ms)
    return record
end

-- The record in this place as the scripts return it: text, false for what is absent.
function booking.answer(key)
    local record = parse(texts[key])
    local values = {}
    for i, name in ipairs(ANSWERED) do
        values[i] = record[name] or false
    end
    return values
end

-- Whether this record, if there is one, is a hold.
function booking.is_held(record)
    return record and record.status == 'reserved'
end

-- The deadline decides, not the sweeper.
function booking.is_due(record, now_ms)
    return record.expires_at_ms <= now_ms
end

-- Puts the text of a record in its place.
function booking.put(key, text, is_forgotten)
    local to = is_forgotten and forgotten or written
    to[#to + 1] = key
    to[#to + 1] = text
    texts[key] = text
end

-- Puts the record of a new hold in its place.
function booking.make(key, at, user, fingerprint, quantity, total_minor, currency, created_at_ms, expires_at_ms, items)
    booking.put(key, 'reserved 1 ' .. at .. ' ' .. user .. ' ' .. (fingerprint ~= '' and fingerprint or NONE) .. ' '
        .. quantity .. ' ' .. total_minor .. ' ' .. currency .. ' ' .. created_at_ms .. ' ' .. expires_at_ms
        .. ' - - - ' .. items)
end

-- Puts a changed record in its place. Its numbers are times and counts: an amount of money may have more digits
-- than Lua puts into a text, and stays the text that it was.
local function change(record, at, is_forgotten)
    record.version = record.version + 1
    record.seq = at
    local values = {}
    for i, name in ipairs(FIELDS) do
        local value = record[name]
        values[i] = (value == nil or value == '') and NONE or value
    end
    booking.put(record.key, table.concat(values, ' '), is_forgotten)
end

-- Moves the record of a hold to confirmed.
function booking.confirm(record, at, now_ms, code)
    record.status, record.confirmed_at_ms, record.code = 'confirmed', now_ms, code
    change(record, at, false)
end

-- Moves the record to a final state.
function booking.finish(record, status, at, now_ms)
    record.status, record.ended_at_ms = status, now_ms
    change(record, at, record.fingerprint == '')
end

-- Writes what was made and changed.
function booking.save()
    for first = 1, #written, ARGUMENTS_MAX do
        redis.call('MSET', unpack(written, first, math.min(first + ARGUMENTS_MAX - 1, #written)))
    end
    for i = 1, #forgotten, 2 do
        redis.call('SET', forgotten[i], forgotten[i + 1], 'EX', ENDED_TTL_S)
    end
end

return booking
