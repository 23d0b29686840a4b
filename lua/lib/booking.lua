-- The booking record. Its items are JSON text, [[zone, quantity, price_minor, show], ...], written
-- once by reserve and copied as they are into every later ledger entry.
local booking = {}

-- A record without an idempotency key need not outlive the questions about its end.
local ENDED_TTL_S = 86400

function booking.read(key)
    return redis.call('HMGET', key, 'user', 'status', 'version', 'fingerprint', 'items', 'quantity',
        'total_minor', 'currency', 'created_at_ms', 'expires_at_ms', 'confirmed_at_ms', 'code', 'seq')
end

-- The record with names for its fields, or nothing.
function booking.load(key)
    local fields = booking.read(key)
    if not fields[1] then
        return nil
    end
    return {
        key = key,
        user = fields[1],
        status = fields[2],
        version = tonumber(fields[3]),
        fingerprint = fields[4],
        items = fields[5],
        quantity = tonumber(fields[6]),
        total_minor = tonumber(fields[7]),
        expires_at_ms = tonumber(fields[10]),
        fields = fields,
    }
end

-- Whether this record, if there is one, is a hold.
function booking.is_held(record)
    return record and record.status == 'reserved'
end

-- The deadline decides, not the sweeper.
function booking.is_due(record, now_ms)
    return record.expires_at_ms <= now_ms
end

-- Moves the record to a final state.
function booking.finish(record, status, at, now_ms)
    redis.call('HSET', record.key, 'status', status, 'version', record.version + 1, 'ended_at_ms', now_ms, 'seq', at)
    if record.fingerprint == '' then
        redis.call('EXPIRE', record.key, ENDED_TTL_S)
    end
end

return booking
