-- Integers as text. Making text of a number takes as long as a whole call of GET, and most numbers of a call
-- are the same few, so each is made once. Also right above 14 digits, where `..` is not.
local digits = {}

local texts = {}

function digits.of(number)
    local text = texts[number]
    if not text then
        text = string.format('%d', number)
        texts[number] = text
    end
    return text
end

return digits
