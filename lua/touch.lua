-- Prolongs reservations.
--
-- KEYS   reserved
-- ARGV   lease in ms from now, then the members
-- Result the numbers, from 1, of the members that are not reserved

local clock = redis.call('TIME')
local till = string.format('%.6f', clock[1] + clock[2] / 1000000 + ARGV[1] / 1000)
local missed = {}
for i = 2, #ARGV do
  if redis.call('ZREM', KEYS[1], ARGV[i]) == 1 then -- first, so that a full server lets ZADD pass
    redis.call('ZADD', KEYS[1], till, ARGV[i])
  else
    missed[#missed + 1] = i - 1
  end
end
return missed
