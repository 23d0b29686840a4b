-- The cell: whether it is open, what time it is there, and where its ledger stands.
local clock = require('clock')

local cell = {}

-- Loads what every verb needs of the `sale` hash, or nothing where the cell is not open.
-- Redis's clock may step back; a cell's time never does, because the last one is stored.
function cell.load(sale_key)
    local fields = redis.call('HMGET', sale_key, 'epoch', 'seq', 'time_ms', 'status', 'sale_start_at_ms',
        'sale_end_at_ms', 'max_per_user', 'hold_ttl_ms', 'currency', 'ledger_max', 'version', 'loaded',
        'queue_mode', 'queue_opens_at_ms')
    if not fields[1] then
        return nil
    end
    return {
        key = sale_key,
        prefix = string.sub(sale_key, 1, -5),
        epoch = fields[1],
        seq = tonumber(fields[2]),
        saved_seq = tonumber(fields[2]),
        now_ms = math.max(clock.now_ms(), tonumber(fields[3])),
        status = fields[4],
        sale_start_at_ms = tonumber(fields[5]),
        sale_end_at_ms = tonumber(fields[6]),
        max_per_user = tonumber(fields[7]),
        hold_ttl_ms = tonumber(fields[8]),
        currency = fields[9],
        ledger_max = tonumber(fields[10]),
        version = tonumber(fields[11]),
        loaded = fields[12],
        -- Of the waiting room no more than this: a sale without one, or whoever has no need of it, pays nothing for it.
        queue_mode = fields[13],
        queue_opens_at_ms = tonumber(fields[14] or 0),
    }
end

-- Whether a booking that has no record here may have one in Postgres: a large cell is opened before all of its
-- records are back. They come in the order of their ids, and `loaded` is how far they are.
function cell.may_come(sale, booking_id)
    return sale.loaded and booking_id > sale.loaded
end

-- Whether seats are sold at this moment.
function cell.is_on_sale(sale)
    return sale.status == 'published' and sale.now_ms >= sale.sale_start_at_ms and not cell.is_over(sale)
end

-- Whether the end of the sale has passed.
function cell.is_over(sale)
    return sale.sale_end_at_ms > 0 and sale.now_ms >= sale.sale_end_at_ms
end

-- Stores where the ledger stands and what time it is, if it has been appended to since the last time.
function cell.save(sale)
    if sale.seq ~= sale.saved_seq then
        redis.call('HSET', sale.key, 'seq', sale.seq, 'time_ms', sale.now_ms)
        sale.saved_seq = sale.seq
    end
end

-- Where the ledger stands, as every answer carries it.
function cell.at(sale)
    return sale.epoch .. '-' .. sale.seq
end

function cell.zone_key(sale, zone_id)
    return sale.prefix .. 'zone:' .. zone_id
end

function cell.booking_key(sale, booking_id)
    return sale.prefix .. 'booking:' .. booking_id
end

function cell.rate_key(sale, user)
    return sale.prefix .. 'rate:' .. user
end

return cell
