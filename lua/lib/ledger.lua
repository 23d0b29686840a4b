-- The ledger: one entry for each change, in the order of the changes, ids dense within an epoch.
local ledger = {}

-- Appends the entry (JSON text) as <epoch>-<seq + 1>; cell.save stores the new seq.
-- The id is spelled out rather than left to Redis, so that a stream which lost its end continues
-- with a gap that the relay sees, and one which is ahead fails here, before anything is written.
function ledger.append(ledger_key, sale, entry)
    local id = sale.epoch .. '-' .. string.format('%d', sale.seq + 1)
    redis.call('XADD', ledger_key, id, 'e', entry)
    sale.seq = sale.seq + 1
    return id
end

return ledger
