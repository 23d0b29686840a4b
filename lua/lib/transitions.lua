-- The life of a booking, in one table: what each verb makes of each state. Text is the next state; a
-- status is the answer where nothing changes. reserve makes the state that the others begin from.
local status = require('status')
local booking = require('booking')

local transitions = {}

local TABLE = {
    confirm = {
        reserved = 'confirmed', confirmed = status.REPLAYED,
        cancelled = status.BOOKING_ENDED, expired = status.BOOKING_EXPIRED,
    },
    cancel = {
        reserved = 'cancelled', confirmed = status.BOOKING_ENDED,
        cancelled = status.REPLAYED, expired = status.BOOKING_EXPIRED,
    },
    reject = {
        reserved = 'cancelled', confirmed = 'cancelled',
        cancelled = status.REPLAYED, expired = status.REPLAYED,
    },
}

-- The status that refuses the verb, or nothing and the state that the booking moves to. For its buyer a
-- hold has expired when its deadline has passed: the deadline decides, not the sweeper.
function transitions.check(verb, record, now_ms)
    local state = record.status
    if verb ~= 'reject' and booking.is_held(record) and booking.is_due(record, now_ms) then
        state = 'expired'
    end
    local outcome = TABLE[verb][state]
    if type(outcome) == 'number' then
        return outcome
    end
    return nil, outcome
end

return transitions
