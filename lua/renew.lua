-- Prolongs slots of a limit.
--
-- KEYS   the limit: a sorted set of holders by the unix time when their slots end
-- ARGV   1 for how long, in ms from now
--        2... the holders
-- Result the numbers, from 1, of the holders that have no slot

local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local till = string.format('%.6f', now + ARGV[1] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now)) -- as in slots.lua
local missed = {}
for i = 2, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], till, ARGV[i])
  else
    missed[#missed + 1] = i - 1
  end
end
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
if last[2] then
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.ceil(last[2] * 1000) + 1))
end
return missed
